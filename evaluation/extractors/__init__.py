"""Extractors by name, this project's and other people's, and the loop that runs them."""
