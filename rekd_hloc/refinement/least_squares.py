"""Gauss-Newton for the affine map between two patches: inverse compositional least squares.

Gruen, "Adaptive least squares correlation", 1985, in the form of Baker and Matthews, "Lucas-Kanade
20 years on", 2004. Shift (2), affine map (4), gain and offset are estimated together. All that is
costly depends on the template alone and is computed once: an iteration reads one patch and
multiplies it with one matrix.
"""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rekd_hloc.refinement.pyramid import ImagePyramid

SIGMA = 0.5
"""Of the Gaussian weights of a window's samples, as a share of its radius."""
STOP = 0.01
"""An update of the shift below it, in samples, is the last one."""
REST = 5 * STOP
"""A last update below it still is an estimate that came to rest."""
RIDGE = 1e-6
"""Added to the normal matrix, relative to its mean diagonal, so that flat patches can be solved."""
MIN_GAIN = 0.05
"""Least contrast of the image over the template's that a step believes in."""
TINY = 1e-6
COMPACT = 0.7
"""The patches still moving are gathered when they are fewer than this share of those at hand."""
NUM_UNKNOWNS = 8


@dataclass(frozen=True, eq=False)
class Window:
    """Samples on a square grid about the centre of a patch.

    Attributes:
        radius: samples from the centre to a side.
        offsets: of the samples, row by row, in samples.
        weights: of the samples, with sum 1.
    """

    radius: int
    offsets: Float[Tensor, "sample 2"]
    weights: Float[Tensor, " sample"]

    @classmethod
    def of(cls, radius: int, like: Tensor) -> Self:
        """Return a window of a radius, on the device and in the precision of a tensor."""
        line = torch.arange(-radius, radius + 1).to(like)
        y, x = torch.meshgrid(line, line, indexing="ij")
        offsets = torch.stack([x, y], dim=-1).reshape(-1, 2)
        weights = torch.exp(-offsets.square().sum(dim=1) / (2 * (SIGMA * radius) ** 2))
        return cls(radius, offsets, weights / weights.sum())

    @property
    def side(self) -> int:
        """Return how many samples a row has."""
        return 2 * self.radius + 1

    @property
    def num_samples(self) -> float:
        """Return how many equally weighted samples the weights amount to."""
        return float(1 / self.weights.square().sum())

    def read(
        self,
        pyramid: ImagePyramid,
        center: Float[Tensor, "patch 2"],
        axes: Float[Tensor, "patch 2 2"],
        level: Int64[Tensor, " patch"],
    ) -> Float[Tensor, "patch sample"]:
        """Return the grey values of patches, see :meth:`ImagePyramid.read`."""
        return pyramid.read(center, axes, level, (self.side, self.side)).flatten(start_dim=1)

    def normalise(self, values: Float[Tensor, "patch sample"]) -> tuple[Tensor, Tensor]:
        """Return values of weighted mean 0 and deviation 1, and their deviations before."""
        mean = values @ self.weights
        centred = values - mean[:, None]
        deviation = (centred.square() @ self.weights).sqrt()
        return centred / deviation.clamp(min=TINY)[:, None], deviation


@dataclass(frozen=True, eq=False)
class Template:
    """Patches of image a, with all that a Gauss-Newton step needs of them.

    Attributes:
        values: normalised.
        deviation: of the grey values.
        inverse: of the normal matrix of shift, affine map, gain and offset, in samples.
        update: times the grey values of image b gives the unknowns, times their gain.
    """

    values: Float[Tensor, "patch sample"]
    deviation: Float[Tensor, " patch"]
    inverse: Float[Tensor, "patch 8 8"]
    update: Float[Tensor, "patch 8 sample"]

    @classmethod
    def read(
        cls,
        pyramid: ImagePyramid,
        center: Float[Tensor, "patch 2"],
        axes: Float[Tensor, "patch 2 2"],
        level: Int64[Tensor, " patch"],
        window: Window,
    ) -> Self:
        """Read the patches at ``center + axes offset``; slopes are taken between samples."""
        values, deviation = window.normalise(window.read(pyramid, center, axes, level))
        across = pyramid.read(center, axes, level, (window.side + 1, window.side))
        down = pyramid.read(center, axes, level, (window.side, window.side + 1))
        slopes = across.diff(dim=2).flatten(start_dim=1), down.diff(dim=1).flatten(start_dim=1)
        x, y = window.offsets.unbind(dim=1)
        rows = values.new_empty(len(values), NUM_UNKNOWNS, values.shape[1])
        for number, slope in enumerate(slopes):
            torch.div(slope, deviation.clamp(min=TINY)[:, None], out=rows[:, number])
            torch.mul(rows[:, number], x, out=rows[:, 2 + 2 * number])
            torch.mul(rows[:, number], y, out=rows[:, 3 + 2 * number])
        rows[:, 6], rows[:, 7] = values, 1.0
        weighted = rows * window.weights
        normal = weighted @ rows.transpose(1, 2)
        ridge = RIDGE * normal.diagonal(dim1=1, dim2=2).mean(dim=1)
        normal.diagonal(dim1=1, dim2=2).add_(ridge.clamp(min=TINY)[:, None])
        inverse = torch.linalg.inv(normal)
        return cls(values, deviation, inverse, inverse @ weighted)


def estimate_warps(
    pyramid: ImagePyramid,
    template: Template,
    window: Window,
    center: Float[Tensor, "patch 2"],
    axes: Float[Tensor, "patch 2 2"],
    level: Int64[Tensor, " patch"],
    max_iterations: int,
) -> tuple[Float[Tensor, "patch 2"], Float[Tensor, "patch 2 2"], Bool[Tensor, " patch"]]:
    """Find where the templates are in image b.

    Args:
        pyramid: of image b.
        template: of image a.
        window: of the template.
        center: where to start, in pixels of b.
        axes: likewise; columns are the steps of a sample in pixels of b.
        level: of the pyramid to read from.
        max_iterations: Gauss-Newton steps of a patch.

    Returns:
        The centres, the axes, and which came to rest.
    """
    center, axes = center.clone(), axes.clone()
    is_at_rest = torch.zeros(len(center), dtype=torch.bool, device=center.device)
    rows = torch.arange(len(center), device=center.device)
    update, here, to_b, levels = template.update, center, axes, level
    for _ in range(max_iterations):
        values = window.read(pyramid, here, to_b, levels)
        step = torch.bmm(update, values[:, :, None])[:, :, 0]
        to_b, moved = _compose(to_b, step, template.deviation[rows])
        here = here + moved
        length = _length_in_samples(moved, to_b)
        center[rows], axes[rows], is_at_rest[rows] = here, to_b, length < REST
        moving = torch.nonzero(~(length < STOP))[:, 0]
        if len(moving) == 0:
            break
        if len(moving) < COMPACT * len(rows):
            rows, here, to_b = rows[moving], here[moving], to_b[moving]
            update, levels = update[moving], levels[moving]
    return center, axes, is_at_rest


def _compose(
    axes: Float[Tensor, "patch 2 2"], step: Float[Tensor, "patch 8"], deviation: Tensor
) -> tuple[Float[Tensor, "patch 2 2"], Float[Tensor, "patch 2"]]:
    """Return the axes, and how the centre moves, after the inverse of a small map.

    The template moved by u -> u + D u + d, in samples, looks like the image. So the map from the
    template to the image is the old one after the inverse of that.
    """
    gain = step[:, 6:7]
    step = step[:, :6] / torch.maximum(gain, MIN_GAIN * deviation[:, None].clamp(min=TINY))
    p, q, r, s = (1 + step[:, 2]), step[:, 3], step[:, 4], (1 + step[:, 5])
    determinant = p * s - q * r
    safe = torch.where(determinant.abs() < TINY, TINY, determinant)
    inverse = torch.stack([s, -q, -r, p], dim=1).reshape(-1, 2, 2) / safe[:, None, None]
    new_axes = axes @ inverse
    return new_axes, -(new_axes @ step[:, :2, None])[:, :, 0]


def _length_in_samples(
    moved: Float[Tensor, "patch 2"], axes: Float[Tensor, "patch 2 2"]
) -> Float[Tensor, " patch"]:
    determinant = axes[:, 0, 0] * axes[:, 1, 1] - axes[:, 0, 1] * axes[:, 1, 0]
    length: Tensor = moved.norm(dim=1) / determinant.abs().sqrt().clamp(min=TINY)
    return length
