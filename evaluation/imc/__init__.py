"""The Image Matching Challenge 2020/2021: its data, bags of images, its submissions."""
