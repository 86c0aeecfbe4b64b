"""Drawings, charts and the HTML page of a reconstruction."""
