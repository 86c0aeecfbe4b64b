"""RANSAC on oriented features: samples that use angles and scales, and a study of them."""
