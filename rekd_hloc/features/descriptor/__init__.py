"""HardNet descriptors on oriented patches."""
