"""Which images look alike: a codebook of local descriptors, signatures of images, and an index."""
