"""What lies in hloc's datasets of one image, and how it becomes keypoints and back.

Values of strangers' files are looked at here: numbers that are not finite, sizes that no image has,
scales below zero. hloc's angles are degrees, clockwise in image coordinates.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rekd_hloc.geometry import wrap_angle
from rekd_hloc.types import Features, Keypoints

SCORES = ("scores", "keypoint_scores", "score")
"""Names that hloc's extractors and dense matchers give to detector responses."""
KEYPOINT_DATASETS = ("keypoints", "scales", "oris", *SCORES)
FEATURE_DATASETS = (*KEYPOINT_DATASETS, "descriptors", "image_size")
NO_DESCRIPTORS = (
    "has no descriptors, as files of dense matchers like LoFTR have none; matching needs them: "
    "extract it again"
)
MAX_SIDE_PX = 2**31 - 1
"""Of an image; COLMAP counts pixels in 64 bits, image formats in 32."""

Arrays = Mapping[str, NDArray[Any]]


def keypoints_of(arrays: Arrays) -> Keypoints:
    """Return the keypoints of an image; without scales they get scale 1, without angles angle 0.

    Raises:
        ValueError: there are none, or their shapes or values are impossible.
    """
    if "keypoints" not in arrays:
        raise ValueError("has no keypoints; extract it again")
    xy = arrays["keypoints"]
    if xy.ndim != 2 or xy.shape[1] < 2:
        raise ValueError(f"keypoints have shape {xy.shape}; hloc's are (keypoint, 2)")
    count = len(xy)
    for name in ("scales", "oris", *SCORES):
        if name in arrays and arrays[name].shape != (count,):
            raise ValueError(f"{name} has shape {arrays[name].shape} for {count} keypoints")
    score = next((name for name in SCORES if name in arrays), "")
    scale = arrays.get("scales", np.ones(count))
    if (scale < 0).any():
        raise ValueError(f"scales has the value {scale.min():g}; a scale is not negative")
    return Keypoints(
        xy=_finite("keypoints", xy[:, :2]),
        scale=_finite("scales", scale),
        angle=_radians(arrays.get("oris", np.zeros(count))),
        score=_finite(score, arrays.get(score, np.ones(count))),
    )


def image_size_of(arrays: Arrays) -> tuple[int, int] | None:
    """Return (width, height) in pixels; None where it is not recorded.

    Raises:
        ValueError: it is no pair of whole numbers from 1 to ``MAX_SIDE_PX``.
    """
    if "image_size" not in arrays:
        return None
    size = arrays["image_size"]
    sides = size.tolist()
    is_sound = size.shape == (2,) and size.dtype.kind in "iuf"
    if not is_sound or not all(1 <= side <= MAX_SIDE_PX and side == side // 1 for side in sides):
        raise ValueError(f"image_size is {sides}; it must be (width, height) in pixels")
    return int(sides[0]), int(sides[1])


def features_of(arrays: Arrays) -> Features:
    """Return keypoints with descriptors.

    Raises:
        ValueError: as the functions above, or descriptors or size are missing.
    """
    keypoints = keypoints_of(arrays)
    if "descriptors" not in arrays:
        raise ValueError(NO_DESCRIPTORS)
    size, descriptors = image_size_of(arrays), arrays["descriptors"]
    if size is None:
        raise ValueError("has no image_size; extract it again")
    if descriptors.ndim != 2 or descriptors.shape[1] != len(keypoints):
        raise ValueError(
            f"{len(keypoints)} keypoints but descriptors of shape {descriptors.shape}; "
            "hloc's are (channel, keypoint)"
        )
    return Features(keypoints, _finite("descriptors", descriptors.T), size)


def arrays_of(features: Features, *, half_descriptors: bool = False) -> dict[str, NDArray[Any]]:
    """Return the datasets of an image in hloc's form.

    Args:
        features: in pixels of the original image.
        half_descriptors: as float16.
    """
    keypoints = features.keypoints
    half = np.float16 if half_descriptors else np.float32
    return {
        "keypoints": _array(keypoints.xy),
        "descriptors": np.ascontiguousarray(_array(features.descriptors).T, dtype=half),
        "scores": _array(keypoints.score),
        "scales": _array(keypoints.scale),
        "oris": _degrees(keypoints.angle),
        "image_size": np.asarray(features.image_size, dtype=np.int64),
    }


def _finite(name: str, array: NDArray[Any]) -> Tensor:
    """The array in single precision, in which it must be finite too."""
    with np.errstate(over="ignore"):
        values = np.array(array, dtype=np.float32, order="C")
    num_odd = values.size - int(np.isfinite(values).sum())
    if num_odd:
        raise ValueError(f"{num_odd} values of {name} are not finite; extract it again")
    return torch.from_numpy(values)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float32)


def _radians(degrees: NDArray[Any]) -> Tensor:
    _finite("oris", degrees)
    exact = torch.deg2rad(torch.from_numpy(np.array(degrees, dtype=np.float64)))
    return wrap_angle(exact.float())


def _degrees(angle: Tensor) -> NDArray[np.float32]:
    degrees = np.mod(np.rad2deg(_array(angle).astype(np.float64)), 360.0).astype(np.float32)
    return np.where(degrees >= 360.0, np.float32(0.0), degrees)  # rounding up to a full circle


def value_range_of(attributes: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the values that became black and white when an image's file was read.

    Args:
        attributes: of the image's group; None is returned where they say nothing, as for 8 bits.
    """
    black, white = attributes.get("black"), attributes.get("white")
    if not isinstance(black, float) or not isinstance(white, float):
        return None
    return float(black), float(white)
