"""From an image to oriented keypoints with descriptors."""
