"""The pixel frame a protocol works in: the image as it is, or resized as the protocol says.

``original`` changes nothing; ``crop-320x240`` keeps the aspect, fills 320x240 and crops the middle
(SuperPoint's protocol); ``short-480`` brings the shorter side to 480 px (SuperGlue, LoFTR).
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.extractors.extraction import image_size
from rekd_hloc.geometry import resize_matrix, warp_points, warp_scales
from rekd_hloc.images import read_color, read_image
from rekd_hloc.types import Features

FrameKind = Literal["original", "crop-320x240", "short-480"]
CROP_SIZE = (320, 240)
SHORT_SIDE_PX = 480


@dataclass(frozen=True)
class Placement:
    """How an image lies in its frame: first resized, then cropped."""

    resized: tuple[int, int]
    corner: tuple[int, int]
    """Top left pixel of the crop in the resized image."""
    size: tuple[int, int]
    frame_from_image: Float[Tensor, "3 3"]


def place_image(size: tuple[int, int], kind: FrameKind) -> Placement:
    """Return where an image of that (width, height) comes to lie."""
    width, height = size
    if kind == "original":
        return Placement(size, (0, 0), size, torch.eye(3, dtype=torch.float64))
    if kind == "short-480":
        factor = SHORT_SIDE_PX / min(size)
        resized = max(round(width * factor), 1), max(round(height * factor), 1)
        return Placement(resized, (0, 0), resized, resize_matrix(size, resized))
    factor = max(CROP_SIZE[0] / width, CROP_SIZE[1] / height)
    resized = max(round(width * factor), CROP_SIZE[0]), max(round(height * factor), CROP_SIZE[1])
    corner = (resized[0] - CROP_SIZE[0]) // 2, (resized[1] - CROP_SIZE[1]) // 2
    shift = torch.eye(3, dtype=torch.float64)
    shift[0, 2], shift[1, 2] = -corner[0], -corner[1]
    return Placement(resized, corner, CROP_SIZE, shift @ resize_matrix(size, resized))


def render_frame(path: Path, placement: Placement, scratch: Path) -> None:
    """Write the image as it lies in its frame to a lossless file."""
    image = read_color(path)
    shrinks = placement.resized[0] < image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    resized = cv2.resize(image, placement.resized, interpolation=interpolation)
    (left, top), (width, height) = placement.corner, placement.size
    cropped = resized[top : top + height, left : left + width]
    cv2.imwrite(str(scratch), np.ascontiguousarray(cropped[..., ::-1]))


def read_frame(path: Path, placement: Placement) -> Float[Tensor, "height width"]:
    """Return an image in grey, 0..1, as it lies in its frame."""
    if placement.resized == placement.size == image_size(path):
        return read_image(path)
    with tempfile.TemporaryDirectory() as scratch:
        framed = Path(scratch) / "framed.png"
        render_frame(path, placement, framed)
        return read_image(framed)


def to_frame(features: Features, placement: Placement) -> Features:
    """Features of the original image as they lie in the frame; what falls outside is dropped."""
    keypoints = features.keypoints
    exact = keypoints.xy.double()
    xy = warp_points(placement.frame_from_image, exact)
    scale = warp_scales(placement.frame_from_image, exact, keypoints.scale.double())
    limit = xy.new_tensor(placement.size) - 0.5
    inside = ((xy >= -0.5) & (xy < limit)).all(dim=1)
    moved = replace(keypoints, xy=xy.float(), scale=scale.float())
    return Features(moved[inside], features.descriptors[inside], placement.size)
