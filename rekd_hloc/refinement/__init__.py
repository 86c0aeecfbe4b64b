"""Positions of matched keypoints, refined by comparing the images around them."""
