"""Methods by name, ours and their peers, all as functions from an image to features.

Every method is real and goes through the same matcher and metrics. ``+ours`` after a detector's
name describes its keypoints with this project's descriptor, so that detectors are compared alone.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from rekd_hloc.config import PRESETS, get_preset, with_max_keypoints
from rekd_hloc.extractor import Extractor
from rekd_hloc.images import read_image
from rekd_hloc.types import Features, Keypoints

Method = Callable[[Path], Features]

CLASSICAL = ("sift", "rootsift", "rootsift-upright", "orb", "akaze")


def load_method(name: str, num_keypoints: int, *, device: str = "auto") -> Method:
    """The method of that name with a keypoint budget.

    Raises:
        ValueError: no such method; the message lists them.
    """
    if name in PRESETS:
        config = with_max_keypoints(get_preset(name), num_keypoints)
        return Extractor.from_pretrained(name, device=device, config=config)
    if name in CLASSICAL:
        return _opencv_method(name, num_keypoints)
    raise ValueError(f"no method {name!r}; methods are {', '.join([*PRESETS, *CLASSICAL])}")


def to_root(descriptors: Tensor) -> Tensor:
    """RootSIFT: square root of the L1-normalised histogram (Arandjelovic & Zisserman, 2012)."""
    total = descriptors.abs().sum(dim=1, keepdim=True).clamp(min=1e-12)
    return (descriptors / total).clamp(min=0).sqrt()


def _opencv_method(name: str, num_keypoints: int) -> Method:
    def extract(path: Path) -> Features:
        grey = np.rint(read_image(path).numpy() * 255).astype(np.uint8)
        if name in ("orb", "akaze"):
            tool = cv2.ORB_create(num_keypoints) if name == "orb" else cv2.AKAZE_create()
        else:
            tool = cv2.SIFT_create(num_keypoints)
        points = list(tool.detect(grey, None))
        points = sorted(points, key=lambda p: -p.response)[:num_keypoints]
        if name == "rootsift-upright":
            points = _upright(points)
        points, described = tool.compute(grey, points)
        keypoints = keypoints_from_opencv(points)
        size = (grey.shape[1], grey.shape[0])
        if described is None:
            return Features(keypoints, torch.zeros(0, 128), size)
        return Features(keypoints, _as_vectors(described, name), size)

    return extract


def _as_vectors(described: np.ndarray, name: str) -> Tensor:
    if name in ("orb", "akaze"):  # bits as +-1: the cosine then orders as the Hamming distance
        bits = np.unpackbits(described, axis=1).astype(np.float32) * 2 - 1
        return torch.nn.functional.normalize(torch.from_numpy(bits), dim=1)
    vectors = torch.from_numpy(described)
    if name.startswith("rootsift"):
        vectors = to_root(vectors)
    return torch.nn.functional.normalize(vectors, dim=1)


def _upright(points: list[cv2.KeyPoint]) -> list[cv2.KeyPoint]:
    """One keypoint for each place and size, turned to angle zero."""
    seen: dict[tuple[float, float, float], cv2.KeyPoint] = {}
    for p in points:
        key = (round(p.pt[0], 2), round(p.pt[1], 2), round(p.size, 2))
        seen.setdefault(
            key, cv2.KeyPoint(p.pt[0], p.pt[1], p.size, 0.0, p.response, p.octave, p.class_id)
        )
    return list(seen.values())


def keypoints_from_opencv(points: list[cv2.KeyPoint]) -> Keypoints:
    """OpenCV's keypoints as ours: angles have the same sense, scale is half of its diameter."""
    if not points:
        return Keypoints.empty()
    xy = torch.tensor([p.pt for p in points], dtype=torch.float32)
    values = torch.tensor([(p.size / 2, p.angle, p.response) for p in points])
    return Keypoints(xy, values[:, 0], values[:, 1].deg2rad() % (2 * torch.pi), values[:, 2])


def limit(features: Features, count: int) -> Features:
    """The strongest ``count`` keypoints."""
    order = torch.argsort(features.keypoints.score, descending=True, stable=True)[:count]
    return replace(
        features, keypoints=features.keypoints[order], descriptors=features.descriptors[order]
    )
