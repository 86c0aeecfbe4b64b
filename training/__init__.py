"""Trains the weights that the wheel ships."""
