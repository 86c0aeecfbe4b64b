"""An image against itself: rotated, scaled or blurred."""
