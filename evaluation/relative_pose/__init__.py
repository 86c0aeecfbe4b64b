"""Relative poses of image pairs from any source, and the stereo task on them."""
