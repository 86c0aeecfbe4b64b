"""Whole reconstructions by several pipelines, with and without refinement, and their agreement."""
