"""Methods by name: what turns an image file into features, ours and other people's."""
