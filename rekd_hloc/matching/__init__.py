"""Nearest neighbours, and the orientation-consistency filter after them."""
