"""Features in the manner of OpenCV: ``KeyPoint`` with size and degrees, and BGR images."""

import math
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from rekd_hloc.types import Features

SIFT_PATCH_SIZES = 6.0
"""Side of SIFT's patch in sizes of its keypoints, which are diameters of two sigmas."""


def to_gray_or_rgb(image: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return an image of OpenCV, grey or BGR or with one channel, as grey or RGB."""
    if image.ndim == 3 and image.shape[2] == 1:
        return image[:, :, 0]
    return image[:, :, ::-1] if image.ndim == 3 and image.shape[2] == 3 else image


def to_opencv(
    features: Features, patch_size_px: float
) -> tuple[tuple[Any, ...], Float[np.ndarray, "keypoint channel"]]:
    """Return ``cv2.KeyPoint`` and descriptors.

    Args:
        features: of an image.
        patch_size_px: side of the square that describes a keypoint of scale 1. The size of a
            ``KeyPoint`` is such that OpenCV's SIFT would describe a square as large.
    """
    points = features.keypoints
    sizes = points.scale * (patch_size_px / SIFT_PATCH_SIZES)
    return tuple(
        cv2.KeyPoint(x=x, y=y, size=size, angle=math.degrees(angle) % 360.0, response=score)
        for (x, y), size, angle, score in zip(
            points.xy.tolist(), sizes.tolist(), points.angle.tolist(), points.score.tolist(),
            strict=True,
        )
    ), features.descriptors.numpy()  # fmt: skip
