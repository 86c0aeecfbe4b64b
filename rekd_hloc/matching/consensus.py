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

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rekd_hloc.geometry import angle_difference
from rekd_hloc.matching.rotations import scales_of_matches, values_of_matches
from rekd_hloc.types import Keypoints, Matches

NUM_NEIGHBOURS = 16
"""Nearest matches in image a, and as many in image b, that may support a match."""
RELATIVE_TOLERANCE = 0.3
"""Largest error of a predicted position, as a share of the distance to the match; and"""
SCALE_TOLERANCE_PX = 8.0
"""this times the keypoint's scale in that image, added to it."""
ROTATION_TOLERANCE_DEG = 25.0
RATIO_TOLERANCE_OCTAVES = 1.0
"""Largest differences from a neighbour in rotation and in log2 of the scale ratio."""
MIN_SUPPORT = 3
"""Supporters without which no match stays."""
MIN_SHARE = 0.3
"""Share of a match's neighbours, in the second count, without which it does not stay."""
BLOCK = 1024
"""Matches whose distances to all others exist at once; changes memory only."""


@dataclass(frozen=True, eq=False)
class _Side:
    """One image's end of all matches, and the way from there to the other image.

    Attributes:
        xy: positions in this image.
        other: positions in the other image.
        other_scale: of the keypoints in the other image.
        ratio: scale in the other image over scale in this one.
        rotation: angle in the other image minus angle in this one, in radians.
    """

    xy: Float[Tensor, "match 2"]
    other: Float[Tensor, "match 2"]
    other_scale: Float[Tensor, " match"]
    ratio: Float[Tensor, " match"]
    rotation: Float[Tensor, " match"]

    @classmethod
    def of(cls, a: Keypoints, b: Keypoints, index_a: Tensor, index_b: Tensor) -> Self:
        scale_a = scales_of_matches("scale_a", a.scale, index_a)
        scale_b = scales_of_matches("scale_b", b.scale, index_b)
        rotation = values_of_matches("angle_b", b.angle, index_b) - values_of_matches(
            "angle_a", a.angle, index_a
        )
        xy_a, xy_b = a.xy[index_a].double().cpu(), b.xy[index_b].double().cpu()
        return cls(xy_a, xy_b, scale_b, scale_b / scale_a, rotation)

    def agrees(self, rows: Int64[Tensor, " row"], near: Int64[Tensor, "row near"]) -> Tensor:
        """Say which of the matches ``near`` support the matches ``rows``; shape (row, near)."""
        step = self.xy[near] - self.xy[rows, None]
        angle, ratio = self.rotation[rows, None], self.ratio[rows, None]
        cos, sin = torch.cos(angle) * ratio, torch.sin(angle) * ratio
        x, y = step.unbind(-1)
        predicted = torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)
        true = self.other[near] - self.other[rows, None]
        allowed = RELATIVE_TOLERANCE * true.norm(dim=-1)
        allowed += SCALE_TOLERANCE_PX * self.other_scale[rows, None]
        rotation = angle_difference(self.rotation[near], angle).abs()
        octaves = torch.log2(self.ratio[near] / ratio).abs()
        is_near: Tensor = (predicted - true).norm(dim=-1) <= allowed
        is_near &= rotation <= math.radians(ROTATION_TOLERANCE_DEG)
        is_near &= octaves <= RATIO_TOLERANCE_OCTAVES
        return is_near


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
        ValueError: a match names a keypoint that is not there, a scale is not positive, or an angle
            or scale is not finite.
    """
    share, count = support(matches, a, b)
    kept = (count >= MIN_SUPPORT) & (share >= MIN_SHARE)
    kept, share = (values.to(matches.index.device) for values in (kept, share))
    return Matches(matches.index[kept], share[kept].to(matches.score.dtype))


def support(
    matches: Matches, a: Keypoints, b: Keypoints
) -> tuple[Float[Tensor, " match"], Int64[Tensor, " match"]]:
    """Return which share of its neighbours supports a match, and how many do.

    Raises:
        ValueError: as :func:`filter_by_consensus`.
    """
    index = matches.index.cpu()
    forth = _Side.of(a, b, index[:, 0], index[:, 1])
    back = _Side.of(b, a, index[:, 1], index[:, 0])
    every = torch.arange(len(index))
    _, count = _count(forth, back, every)
    return _count(forth, back, every[count >= MIN_SUPPORT])


def _count(
    forth: _Side, back: _Side, pool: Int64[Tensor, " pool"]
) -> tuple[Float[Tensor, " match"], Int64[Tensor, " match"]]:
    """Return the share and number of neighbours out of ``pool`` that support each match.

    Neighbours in image a are predicted in b, those in b in a; a neighbour in both counts once.
    """
    count = torch.zeros(len(forth.xy), dtype=torch.int64)
    share = torch.zeros(len(forth.xy), dtype=torch.float64)
    for start in range(0, len(count), BLOCK):
        rows = torch.arange(start, min(start + BLOCK, len(count)))
        near_a, near_b = _nearest(forth.xy, rows, pool), _nearest(back.xy, rows, pool)
        agree_a, agree_b = forth.agrees(rows, near_a), back.agrees(rows, near_b)
        is_same = near_b[:, :, None] == near_a[:, None, :]
        is_new = ~is_same.any(dim=2)
        agree_b &= ~(is_same & agree_a[:, None, :]).any(dim=2)
        count[rows] = agree_a.sum(dim=1) + agree_b.sum(dim=1)
        num_near = near_a.shape[1] + is_new.sum(dim=1)
        share[rows] = count[rows].double() / num_near.clamp(min=1)
    return share, count


def _nearest(
    xy: Float[Tensor, "match 2"], rows: Int64[Tensor, " row"], pool: Int64[Tensor, " pool"]
) -> Int64[Tensor, "row near"]:
    """Return the matches of ``pool`` that are nearest to each of ``rows``, itself left out."""
    exact = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(xy[rows], xy[pool], compute_mode=exact)
    distance.masked_fill_(rows[:, None] == pool, math.inf)
    size = min(NUM_NEIGHBOURS, max(len(pool) - 1, 0))
    return pool[distance.topk(size, dim=1, largest=False).indices]
