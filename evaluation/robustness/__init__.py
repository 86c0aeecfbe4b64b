"""A photo against itself, turned, scaled or blurred."""
