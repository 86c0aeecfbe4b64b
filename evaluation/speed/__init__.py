"""Seconds and processor time of extraction: one photo, its stages, a folder, busy neighbours."""
