"""Recipes to copy: each reads from top to bottom."""
