"""Neighbourhood consensus: matches whose neighbours lie where their own frames say.

A match of two keypoints with positions, scales and angles is a similarity transform of the plane.
Where the image moves smoothly, that transform says nearly where the matches around it lie. A match
is supported by each neighbour that it predicts so, and that has nearly the same rotation and scale
ratio. Support is counted twice: among all matches, then among those that the first count kept, so
that wrong neighbours do not hide right ones.

Nothing is estimated for the image pair as a whole: each surface of a scene has its own neighbours.
All tolerances are relative to distances and to the keypoints' own scales. So the result does not
change if either image is rotated, scaled or shifted.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from rekd_hloc.matching.nearest_matches import Index, NearestMatches
from rekd_hloc.matching.rotations import match_rotations, scales_of_matches, values_of_matches
from rekd_hloc.types import Keypoints, Matches

Mask = NDArray[np.bool_]

RELATIVE_TOLERANCE = 0.3
"""Largest error of a predicted position, as a share of the distance to the match; and"""
SCALE_TOLERANCE_PX = 8.0
"""this times the keypoint's scale in that image, added to it."""
ROTATION_TOLERANCE_DEG = 25.0
MIN_COSINE = math.cos(math.radians(ROTATION_TOLERANCE_DEG))
RATIO_TOLERANCE_OCTAVES = 1.0
"""Largest differences from a neighbour in rotation and in log2 of the scale ratio."""
MIN_SUPPORT = 3
"""Supporters without which no match stays."""
MIN_SHARE = 0.3
"""Share of a match's neighbours, in the second count, without which it does not stay."""


@torch.no_grad()
def filter_by_consensus(matches: Matches, a: Keypoints, b: Keypoints) -> Matches:
    """Keep the matches that enough of their neighbours support.

    Args:
        matches: of images a and b, at most one for each keypoint: mutual nearest neighbours.
        a: all keypoints of image a, with true scales and angles.
        b: likewise of image b.

    Returns:
        The matches that stay, in their order. Their scores are the shares of their neighbours that
        support them, in (0, 1].

    Raises:
        ValueError: a match names a keypoint that is not there, a scale is not positive, or a value
            is not finite.
    """
    share, count = support(matches, a, b)
    kept = (count >= MIN_SUPPORT) & (share >= MIN_SHARE)
    score = share[kept].to(matches.score.dtype).to(matches.score.device)
    return Matches(matches.index[kept.to(matches.index.device)], score)


def support(
    matches: Matches, a: Keypoints, b: Keypoints
) -> tuple[Float64[Tensor, " match"], Int64[Tensor, " match"]]:
    """Return which share of its neighbours supports a match, and how many do.

    Raises:
        ValueError: as :func:`filter_by_consensus`.
    """
    frames = _Frames.of(matches, a, b)
    every = np.arange(len(matches))
    count, _ = _count(frames, every)
    count, num_near = _count(frames, every[count >= MIN_SUPPORT])
    share = count / np.maximum(num_near, 1)
    return torch.from_numpy(share), torch.from_numpy(count)


@dataclass(frozen=True, eq=False)
class _Frames:
    """The matches as similarity transforms from image a to image b, on the CPU.

    Attributes:
        xy_a: positions in image a.
        xy_b: positions in image b.
        scale_b: of the keypoints in image b.
        ratio: scale in image b over scale in image a.
        direction: cosine and sine of angle in image b minus angle in image a.
    """

    xy_a: Float64[np.ndarray, "2 match"]
    xy_b: Float64[np.ndarray, "2 match"]
    scale_b: Float64[np.ndarray, " match"]
    ratio: Float64[np.ndarray, " match"]
    direction: Float64[np.ndarray, "2 match"]

    @classmethod
    def of(cls, matches: Matches, a: Keypoints, b: Keypoints) -> Self:
        index = matches.index.cpu()
        scale_a = scales_of_matches("scale_a", a.scale, index[:, 0]).numpy()
        scale_b = scales_of_matches("scale_b", b.scale, index[:, 1]).numpy()
        rotation = match_rotations(matches, a.angle, b.angle).numpy()
        xy_a, xy_b = (
            np.stack([values_of_matches(f"xy_{side}", axis, column).numpy() for axis in k.xy.T])
            for side, k, column in (("a", a, index[:, 0]), ("b", b, index[:, 1]))
        )
        direction = np.stack([np.cos(rotation), np.sin(rotation)])
        return cls(xy_a, xy_b, scale_b, scale_b / scale_a, direction)

    def agrees(self, row: Index, near: Index) -> Mask:
        """Say of pairs of matches whether the second supports the first.

        The largest error is the same from b to a: there, errors and distances are smaller by the
        ratio of scales.
        """
        x_a, y_a = (axis[near] - axis[row] for axis in self.xy_a)
        x_b, y_b = (axis[near] - axis[row] for axis in self.xy_b)
        cos, sin, ratio = (values[row] for values in (*self.direction, self.ratio))
        cos_near, sin_near = (axis[near] for axis in self.direction)
        error_x = ratio * (cos * x_a - sin * y_a) - x_b
        error_y = ratio * (sin * x_a + cos * y_a) - y_b
        distance = np.sqrt(np.maximum(x_b**2 + y_b**2, ratio**2 * (x_a**2 + y_a**2)))
        allowed = RELATIVE_TOLERANCE * distance + SCALE_TOLERANCE_PX * self.scale_b[row]
        ratio_to_near = self.ratio[near] / ratio
        factor = 2.0**RATIO_TOLERANCE_OCTAVES
        is_near: Mask = error_x**2 + error_y**2 <= allowed**2
        is_near &= cos * cos_near + sin * sin_near >= MIN_COSINE
        is_near &= (ratio_to_near <= factor) & (ratio_to_near >= 1 / factor)
        return is_near


def _count(frames: _Frames, pool: Index) -> tuple[Index, Index]:
    """Return how many neighbours out of ``pool`` support each match, and how many it has.

    Neighbours are the nearest in image a and the nearest in image b; what is both counts once.
    """
    num = frames.xy_a.shape[1]
    count, num_near = np.zeros((2, num), dtype=np.int64)
    search_a, search_b = (NearestMatches(xy, pool) for xy in (frames.xy_a, frames.xy_b))
    radius_a = np.zeros(num, dtype=np.float32)
    for rows, radius, row, near in search_a.blocks():
        radius_a[rows] = radius
        is_apart = search_b.squared_distance(row, near) > 0
        _add(count, num_near, frames, row[is_apart], near[is_apart])
    for _, _, row, near in search_b.blocks():
        is_new = search_a.squared_distance(row, near) > radius_a[row]
        _add(count, num_near, frames, row[is_new], near[is_new])
    return count, num_near


def _add(count: Index, num_near: Index, frames: _Frames, row: Index, near: Index) -> None:
    num_near += np.bincount(row, minlength=len(count))
    count += np.bincount(row[frames.agrees(row, near)], minlength=len(count))
