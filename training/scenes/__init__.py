"""What reconstructions of real scenes teach: where a keypoint of one photo lies in the others."""
