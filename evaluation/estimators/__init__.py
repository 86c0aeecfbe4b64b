"""Robust estimators by name, and our own RANSAC on points or on oriented features."""
