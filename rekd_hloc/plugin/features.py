"""Features in hloc's form: dicts of tensors with a batch of one, angles in degrees.

Degrees grow in the same sense as this package's radians.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from rekd_hloc.geometry import wrap_angle
from rekd_hloc.types import Features, Keypoints

Tensors = dict[str, Tensor]


def features_to_hloc(features: Features) -> Tensors:
    """What an extractor returns.

    All but the descriptors are float64: by default hloc stores float32 as half precision, in which
    1500.3 px is 1500 px, and leaves float64 alone.
    """
    keypoints = features.keypoints
    return {
        "keypoints": keypoints.xy.double()[None],
        "scales": keypoints.scale.double()[None],
        "oris": torch.rad2deg(keypoints.angle.double())[None],
        "scores": keypoints.score.double()[None],
        "descriptors": features.descriptors.float().T.contiguous()[None],
    }


def features_from_hloc(data: Mapping[str, Tensor], side: int) -> Features:
    """What hloc hands to a matcher for image 0 or 1; missing scales are 1, missing angles 0.

    Raises:
        ValueError: keypoints, angles, scales and descriptors disagree in number.
    """
    xy = data[f"keypoints{side}"][0]
    values = {"scales": torch.ones_like(xy[:, 0]), "oris": torch.zeros_like(xy[:, 0])}
    for name in values:
        if f"{name}{side}" in data:
            values[name] = data[f"{name}{side}"][0]
    angle = wrap_angle(torch.deg2rad(values["oris"]))
    keypoints = Keypoints(xy, values["scales"], angle, torch.ones_like(xy[:, 0]))
    height, width = data[f"image{side}"].shape[-2:]
    return Features(keypoints, data[f"descriptors{side}"][0].T, (width, height))


def count_keypoints(data: Mapping[str, Tensor], side: int) -> int:
    """How many keypoints image 0 or 1 has, by whatever of it is there."""
    for name, axis in (("keypoints", 1), ("descriptors", 2), ("oris", 1), ("scores", 1)):
        if f"{name}{side}" in data:
            return data[f"{name}{side}"].shape[axis]
    return 0
