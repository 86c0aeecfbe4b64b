"""Which of an image's keypoints to keep: ways to choose, and a network that learns to rank them."""
