"""Images that a known homography relates: sequences, protocols, and their metrics."""
