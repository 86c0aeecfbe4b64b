"""Measures what the wheel does, against ground truth and peers."""
