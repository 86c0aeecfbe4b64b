"""Measures on arrays: matching under homographies, and relative poses."""
