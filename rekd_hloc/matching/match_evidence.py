"""What the matches of an image pair say for and against each other, as numbers for a network.

A match of two keypoints with positions, scales and angles is a similarity transform from image a to
image b. Its neighbours are told in its own frames: in image a by u, in image b by v. A right match
on a smooth surface has u near v for its right neighbours. Beside that, each match has what the
descriptors, the scores, and the pair's most common rotation and scale ratio say.

Nothing here changes if either image is rotated, scaled or shifted, or with the matches' order.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from rekd_hloc.geometry import wrap_angle
from rekd_hloc.matching.circular import density_at, find_modes
from rekd_hloc.matching.nearest_matches import nearest_in_both
from rekd_hloc.matching.rotations import scales_of_matches, values_of_matches
from rekd_hloc.types import Keypoints, Matches

NUM_NEIGHBOURS = 8
"""Nearest matches in image a, and as many in image b, that a match hears of."""
NUM_SIGNS = 14
"""Numbers that describe a match."""
NUM_EDGE_SIGNS = 16
"""Numbers that describe a neighbour in a match's frames."""
UNIT = 32.0
"""Pixels at scale 1 that are a distance of 1: half the side of a descriptor's patch."""
KERNEL_RAD = 0.14
"""Of the density of rotations: eight degrees, as of the orientation filter."""
QUALITY = 12.0
"""How fast the weight of a match in the pair's rotation and scale ratio falls with its distance
ratio: one at 0.7 counts as 36 at 1."""
SMALLEST_RATIO = 0.05
LARGEST_RATIO = 1.5


@dataclass(frozen=True, eq=False)
class MatchEvidence:
    """The matches of an image pair: frames in both images, and what their descriptors say.

    Attributes:
        xy: positions in image a, then b.
        scale: in image a, then b.
        angle: radians, in image a, then b.
        cosine: of the descriptors.
        ratio: distance by that of the nearest other descriptor of image b, then of image a.
        rank: share of the image's keypoints with a lower score, of image a, then b; 0.5 if unknown.
        extra: what else is known of each match, for a network that was trained with it, such as
            the correlation of the images about it; nothing by default.
    """

    xy: Float64[Tensor, "match 2 2"]
    scale: Float64[Tensor, "match 2"]
    angle: Float64[Tensor, "match 2"]
    cosine: Float64[Tensor, " match"]
    ratio: Float64[Tensor, "match 2"]
    rank: Float64[Tensor, "match 2"]
    extra: Float64[Tensor, "match extra"] | None = None

    @classmethod
    def of(
        cls,
        matches: Matches,
        a: Keypoints,
        b: Keypoints,
        cosine: Float[Tensor, " match"],
        ratio: Float[Tensor, "match 2"],
    ) -> Self:
        """Return what is known of the matches of two images, on the CPU.

        Args:
            matches: at most one for each keypoint.
            a: all keypoints of image a.
            b: all keypoints of image b.
            cosine: as of :func:`rekd_hloc.matching.nearest.distance_ratios`.
            ratio: likewise.

        Raises:
            ValueError: a match names a keypoint that is not there, a scale is not positive, or a
                value is not finite.
        """
        columns = [("a", a, matches.index[:, 0].cpu()), ("b", b, matches.index[:, 1].cpu())]
        xy = [
            torch.stack([values_of_matches(f"xy_{s}", axis, i) for axis in k.xy.T], dim=1)
            for s, k, i in columns
        ]
        scale = [scales_of_matches(f"scale_{s}", k.scale, i) for s, k, i in columns]
        angle = [values_of_matches(f"angle_{s}", k.angle, i) for s, k, i in columns]
        rank = [_ranks(k.score.detach().cpu().double())[i] for _, k, i in columns]
        return cls(
            xy=torch.stack(xy, dim=1),
            scale=torch.stack(scale, dim=1),
            angle=torch.stack(angle, dim=1),
            cosine=cosine.detach().cpu().double(),
            ratio=ratio.detach().cpu().double(),
            rank=torch.stack(rank, dim=1),
        )

    def __len__(self) -> int:
        return len(self.cosine)

    def __getitem__(self, index: Tensor) -> Self:
        """Return the matches that an integer or boolean index tensor selects."""
        names = ("xy", "scale", "angle", "cosine", "ratio", "rank")
        extra = None if self.extra is None else self.extra[index]
        return replace(self, extra=extra, **{name: getattr(self, name)[index] for name in names})

    @property
    def rotation(self) -> Float64[Tensor, " match"]:
        """Return the angle in image b minus that in image a, in [0, 2 pi)."""
        return wrap_angle(self.angle[:, 1] - self.angle[:, 0])

    @property
    def octaves(self) -> Float64[Tensor, " match"]:
        """Return log2 of the scale in image b over that in image a."""
        return (self.scale[:, 1] / self.scale[:, 0]).log2()

    def signs(self) -> Float64[Tensor, "match sign"]:
        """Return what each match says of itself; see the lines for the columns, then ``extra``."""
        own = self._own_signs()
        return own if self.extra is None else torch.cat([own, self.extra], dim=1)

    def _own_signs(self) -> Float64[Tensor, "match sign"]:
        if len(self) == 0:
            return torch.zeros(0, NUM_SIGNS, dtype=torch.float64)
        ratio = self.ratio.clamp(SMALLEST_RATIO, LARGEST_RATIO)
        weight = torch.exp(-QUALITY * ratio.amax(dim=1))
        rotation, octaves = self.rotation, self.octaves
        modes = find_modes(rotation, kernel=KERNEL_RAD, weight=weight)
        off_mode = rotation - (modes[0] if len(modes) else rotation[weight.argmax()])
        level = self.scale.log2()
        density = [
            density_at(rotation, rotation, kernel=KERNEL_RAD, weight=w).clamp(min=0.01).log()
            for w in (None, weight)
        ]
        columns = [
            *ratio.log().unbind(dim=1),
            (self.cosine - self.cosine.mean()) / self.cosine.std(correction=0).clamp(min=0.02),
            *(self.rank - 0.5).unbind(dim=1),
            *(level - level.mean(dim=0)).unbind(dim=1),
            octaves - _weighted_median(octaves, weight),
            off_mode.cos(),
            off_mode.sin(),
            *density,
            density[0].max().expand(len(self)),
            density[1].max().expand(len(self)),
        ]
        return torch.stack(columns, dim=1)

    def neighbours(
        self, pool: Int64[Tensor, " pooled"]
    ) -> tuple[Int64[Tensor, " edge"], Int64[Tensor, " edge"]]:
        """Return pairs of a match and a neighbour out of ``pool``, ordered by the match.

        Neighbours are the nearest ``NUM_NEIGHBOURS`` in image a and in image b.
        """
        xy_a, xy_b = self.xy.permute(1, 2, 0).numpy()
        row, near = nearest_in_both(xy_a, xy_b, pool.numpy(), NUM_NEIGHBOURS)
        order = np.argsort(row, kind="stable")
        return torch.from_numpy(row[order]), torch.from_numpy(near[order])

    def edge_signs(
        self, row: Int64[Tensor, " edge"], near: Int64[Tensor, " edge"], dtype: torch.dtype
    ) -> Float[Tensor, "edge sign"]:
        """Return how the frames of ``row`` see ``near``; see the lines for the columns.

        Angles and differences of positions are rounded to ``dtype``, not the positions.
        """
        u, v = (own.to(dtype) for own in self._offsets(row, near))
        back_u, back_v = (own.to(dtype) for own in self._offsets(near, row))
        length_u, length_v = _length(u), _length(v)
        error, longer = v - u, torch.maximum(length_u, length_v)
        relative = _length(error) / (0.25 + longer)
        back = _length(back_v - back_u) / (0.25 + torch.maximum(_length(back_u), _length(back_v)))
        rotation, octaves = self.rotation, self.octaves
        turned = (rotation[near] - rotation[row]).to(dtype)
        columns = [
            *(u / (2 + length_u)[:, None]).unbind(dim=1),
            *(v / (2 + length_v)[:, None]).unbind(dim=1),
            *(error / (0.25 + longer)[:, None]).unbind(dim=1),
            (0.1 + length_u).log(),
            (0.1 + length_v).log(),
            relative,
            (0.02 + relative).log(),
            back,
            (0.02 + back).log(),
            (0.05 + _length(error)).log(),
            turned.cos(),
            turned.sin(),
            (octaves[near] - octaves[row]).to(dtype),
        ]
        return torch.stack(columns, dim=1)

    def _offsets(self, row: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
        """The way from ``row`` to ``near`` in both images, each in the frame that ``row`` has."""
        unit = 1 / (UNIT * self.scale)
        cos, sin = ((wave * unit)[row] for wave in (self.angle.cos(), self.angle.sin()))
        x, y = (self.xy[near] - self.xy[row]).unbind(dim=2)
        own = torch.stack([cos * x + sin * y, cos * y - sin * x], dim=2)
        return own[:, 0], own[:, 1]


def _length(offsets: Float[Tensor, "edge 2"]) -> Float[Tensor, " edge"]:
    length: Tensor = torch.linalg.vector_norm(offsets, dim=1)
    return length


def _ranks(score: Float64[Tensor, " keypoint"]) -> Float64[Tensor, " keypoint"]:
    """Share of the other keypoints that are weaker; of equal ones half are."""
    rising = score.sort().values
    below = torch.searchsorted(rising, score)
    not_above = torch.searchsorted(rising, score, right=True)
    return (below + not_above).double() / (2 * max(len(score), 1))


def _weighted_median(values: Tensor, weight: Tensor) -> Tensor:
    order = values.argsort()
    reached = weight[order].cumsum(0) >= weight.sum() / 2
    return values[order][reached.int().argmax()]
