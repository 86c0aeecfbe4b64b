"""The equivariant detector: score map, orientation histogram, oriented keypoints."""
