"""From a folder of images to a COLMAP model."""
