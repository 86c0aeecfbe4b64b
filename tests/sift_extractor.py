"""An extractor without trained weights: OpenCV's SIFT in the house conventions."""

import cv2
import numpy as np
import torch

from rekd_hloc.types import Features, Keypoints


class SiftExtractor:
    """Callable as the real one, and picklable; ``seen`` counts images and keeps their masks."""

    needs_color = False
    num_workers = 1
    max_side_px = 0

    def __init__(self, num_keypoints=800, num_readers=1, **provenance):
        self.num_keypoints = num_keypoints
        self.num_readers = num_readers
        self.provenance = {"method": "sift", **provenance}
        self.seen = []

    def __call__(self, image, mask=None):
        self.seen.append(mask)
        grey = (image.numpy() * 255).round().astype(np.uint8)
        usable = None if mask is None else mask.astype(np.uint8)
        sift = cv2.SIFT_create(self.num_keypoints, enable_precise_upscale=True)
        found, descriptors = sift.detectAndCompute(grey, usable)
        if descriptors is None:
            descriptors = np.zeros((0, 128), np.float32)
        keypoints = Keypoints(
            xy=torch.tensor([k.pt for k in found], dtype=torch.float32).reshape(-1, 2),
            scale=torch.tensor([k.size / 2 for k in found], dtype=torch.float32),
            angle=torch.deg2rad(torch.tensor([k.angle % 360 for k in found], dtype=torch.float32)),
            score=torch.tensor([k.response for k in found], dtype=torch.float32),
        )
        unit = torch.nn.functional.normalize(torch.from_numpy(descriptors), dim=1)
        height, width = grey.shape
        return Features(keypoints, unit, (width, height))
