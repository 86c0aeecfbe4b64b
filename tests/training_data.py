"""Images, keypoints and tracks for the tests of the descriptor's training, without any weights."""

import math

import cv2
import numpy as np
import torch

from rekd_hloc.types import Keypoints
from tests.helpers import textured_image
from training.track_cache import generate_tracks
from training.tracks import TrackConfig
from training.warps import WarpConfig

GENTLE = WarpConfig(scale_range=(0.9, 1.1), blur_px=0, noise=2, jpeg_quality=90, perspective=0.02)
TRACKS = TrackConfig(warps=GENTLE, num_views=2, min_tracks=4, max_tracks=60)


class CornerDetector:
    """Stands for the trained detector: OpenCV's SIFT points, so that no weights are needed."""

    def detect(self, image):
        """The 150 strongest keypoints."""
        grey = (image.numpy() * 255).round().astype(np.uint8)
        points = sorted(cv2.SIFT.create().detect(grey, None), key=lambda p: -p.response)[:150]
        if not points:
            return Keypoints.empty()
        rows = torch.tensor([(*p.pt, p.size / 8, math.radians(p.angle), 1.0) for p in points])
        return Keypoints(rows[:, :2], rows[:, 2], rows[:, 3], rows[:, 4])


def rgb_image(seed=0, height=240, width=320):
    """A textured image in grey, with three channels."""
    return np.repeat(textured_image(height, width, seed)[..., None], 3, axis=2)


def write_images(folder, count, size=(240, 320)):
    """Write ``p0.png`` and on; of 12 or more, the rule on their names holds some out."""
    for seed in range(count):
        assert cv2.imwrite(str(folder / f"p{seed}.png"), rgb_image(seed, *size))
    return folder


def write_tracks(path, folder, config=TRACKS):
    """Generate the tracks of a folder's images at the keypoints of :class:`CornerDetector`."""
    generate_tracks(
        path,
        sorted(folder.glob("*.png")),
        CornerDetector(),
        config,
        detector_hash="corner",
        seed=0,
        quiet=True,
    )
    return path
