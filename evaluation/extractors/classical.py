"""Classical baselines: SIFT, ORB and AKAZE of OpenCV, SIFT of COLMAP.

All of them work on grey bytes. Integer coordinates are pixel centres (COLMAP's are 0.5 more), and
angles grow clockwise in image coordinates, as OpenCV's. OpenCV's SIFT lies a quarter pixel to the
right and down of what it finds, by its default way of doubling the image; it is taken as it comes,
because undoing that changes no metric by more than 0.4 points.
"""

import threading
import warnings
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from rekd_hloc.geometry import wrap_angle
from rekd_hloc.types import Features, Keypoints

OPENCV_EXTRACTORS = ("sift", "rootsift", "rootsift-upright", "orb", "akaze")
CLASSICAL = (*OPENCV_EXTRACTORS, "colmap-sift")
BINARY = ("orb", "akaze")
COLMAP_HALF_PIXEL = 0.5
NO_CAP = 100_000
"""More keypoints than any detector finds in an image of ordinary size."""
SIFT_DEFAULT_BUDGET = 2048
"""Up to it OpenCV's SIFT keeps its thresholds, as in the category of 2,048 keypoints of IMC."""
NO_THRESHOLD = -10_000.0
"""What the organisers of IMC give OpenCV as both thresholds of SIFT for 8,000 keypoints."""

Grey = Float[Tensor, "height width"]
Extract = Callable[[Grey], Features]
"""From a grey image, 0..1, to its features."""


def to_grey_bytes(image: Grey) -> UInt8[np.ndarray, "height width"]:
    """Return the image as bytes, as OpenCV and COLMAP take it."""
    return np.asarray(np.rint(image.numpy() * 255), dtype=np.uint8)


def opencv_extractor(name: str, num_keypoints: int) -> Extract:
    """Return one of ``OPENCV_EXTRACTORS`` with a keypoint budget; it is thread-safe.

    Raises:
        ValueError: this OpenCV lacks the method.
    """
    _opencv_tool(name, num_keypoints)

    def extract(image: Grey) -> Features:
        grey = to_grey_bytes(image)
        tool = _opencv_tool(name, num_keypoints)
        points = sorted(tool.detect(grey, None), key=lambda p: -p.response)
        if name == "rootsift-upright":
            points = _upright(points)
        points = points[:num_keypoints]
        points, described = tool.compute(grey, points)
        size = (grey.shape[1], grey.shape[0])
        if described is None:
            width = tool.descriptorSize() * (8 if name in BINARY else 1)
            return Features(Keypoints.empty(), torch.zeros(0, width), size)
        return Features(keypoints_from_opencv(list(points)), _as_vectors(described, name), size)

    return extract


def takes_all_sift(name: str, num_keypoints: int) -> bool:
    """Say whether OpenCV's SIFT is asked for every extremum, to fill a budget that needs them.

    SIFT's own thresholds leave 3,000 to 5,000 keypoints of an image of 1024 pixels; the official
    baselines of IMC lift them in the category of 8,000. The strongest are taken as ever. Without a
    cap there is nothing to fill, and SIFT's thresholds decide.
    """
    return "sift" in name and SIFT_DEFAULT_BUDGET < num_keypoints < NO_CAP


def colmap_sift_extractor(num_keypoints: int) -> Extract:
    """Return SIFT as COLMAP extracts it, on the CPU.

    COLMAP gives no response and keeps the largest scales where there are too many; the score is
    therefore the scale.
    """
    import pycolmap

    from rekd_hloc.sfm.pycolmap_compat import quiet, set_options

    kind = getattr(pycolmap, "FeatureExtractionOptions", None)
    options: Any = kind() if kind else pycolmap.SiftExtractionOptions()
    set_options(options, sift__max_num_features=num_keypoints, use_gpu=False)
    set_options(options, max_num_features=num_keypoints)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        tool = pycolmap.Sift(options, device=pycolmap.Device.cpu)
    lock = threading.Lock()

    def extract(image: Grey) -> Features:
        grey = to_grey_bytes(image)
        with lock, quiet():
            rows, described = tool.extract(grey)
        values = torch.from_numpy(np.array(rows, dtype=np.float32).reshape(-1, 4))
        order = torch.argsort(values[:, 2], descending=True, stable=True)[:num_keypoints]
        values = values[order]
        keypoints = Keypoints(
            xy=values[:, :2] - COLMAP_HALF_PIXEL,
            scale=values[:, 2],
            angle=wrap_angle(values[:, 3]),
            score=values[:, 2],
        )
        vectors = torch.from_numpy(np.array(described, dtype=np.float32).reshape(-1, 128))
        return Features(keypoints, unit_rows(vectors[order]), (grey.shape[1], grey.shape[0]))

    return extract


def keypoints_from_opencv(points: list[cv2.KeyPoint]) -> Keypoints:
    """Convert OpenCV's keypoints: angles have the same sense, the scale is half of its diameter."""
    if not points:
        return Keypoints.empty()
    xy = torch.tensor([p.pt for p in points], dtype=torch.float32)
    values = torch.tensor([(p.size / 2, p.angle, p.response) for p in points])
    return Keypoints(xy, values[:, 0], wrap_angle(values[:, 1].deg2rad()), values[:, 2])


def to_root(descriptors: Float[Tensor, "keypoint channel"]) -> Float[Tensor, "keypoint channel"]:
    """Return RootSIFT, the root of the L1-normalised histogram (Arandjelovic & Zisserman, 2012)."""
    total = descriptors.abs().sum(dim=1, keepdim=True).clamp(min=1e-12)
    return (descriptors / total).clamp(min=0).sqrt()


def unit_rows(vectors: Float[Tensor, "keypoint channel"]) -> Float[Tensor, "keypoint channel"]:
    """Scale rows to length 1; a row of zeros becomes one of equal entries."""
    length = vectors.norm(dim=1, keepdim=True)
    level = torch.full_like(vectors, max(vectors.shape[1], 1) ** -0.5)
    return torch.where(length > 1e-12, F.normalize(vectors, dim=1), level)


def _opencv_tool(name: str, num_keypoints: int) -> Any:
    opencv: Any = cv2  # its type hints lack these functions
    if name == "orb":
        return opencv.ORB_create(num_keypoints)
    if name == "akaze":
        contributed = getattr(cv2, "xfeatures2d", None)
        create = getattr(cv2, "AKAZE_create", None) or getattr(contributed, "AKAZE_create", None)
        if create is None:
            raise ValueError(
                f"OpenCV {cv2.__version__} has no AKAZE: install opencv-python below 5, or "
                "opencv-contrib-python in place of opencv-python"
            )
        return create()
    budget = 0 if name == "rootsift-upright" else num_keypoints
    if takes_all_sift(name, num_keypoints):
        return opencv.SIFT_create(
            budget, contrastThreshold=NO_THRESHOLD, edgeThreshold=NO_THRESHOLD
        )
    return opencv.SIFT_create(budget)


def _as_vectors(described: NDArray[np.generic], name: str) -> Tensor:
    if name in BINARY:  # bits as +-1: the cosine then orders as the Hamming distance
        bits = np.unpackbits(described.astype(np.uint8), axis=1).astype(np.float32) * 2 - 1
        return F.normalize(torch.from_numpy(bits), dim=1)
    vectors = torch.from_numpy(described.astype(np.float32))
    return unit_rows(to_root(vectors) if name.startswith("rootsift") else vectors)


def _upright(points: list[cv2.KeyPoint]) -> list[cv2.KeyPoint]:
    """Keep one keypoint for each position and size, with angle zero."""
    seen: dict[tuple[float, float, float], cv2.KeyPoint] = {}
    for p in points:
        key = (round(p.pt[0], 2), round(p.pt[1], 2), round(p.size, 2))
        seen.setdefault(
            key, cv2.KeyPoint(p.pt[0], p.pt[1], p.size, 0.0, p.response, p.octave, p.class_id)
        )
    return list(seen.values())
