"""Levels of the paper's protocol for large images: nothing larger than the image is held at once.

The rules are those of :mod:`rekd_hloc.features.detector.paper`, in float64 there and here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rekd_hloc.features.detector.resample import Taps, linear_taps, sample
from rekd_hloc.features.detector.tiles import TILE_PX, Region, Size

STRIP_ROWS = TILE_PX // 2
"""Rows of a reduced level that are made at once."""

ReadExact = Callable[[Region], Float64[Tensor, "1 1 height width"]]


@dataclass(frozen=True)
class RoundedGreys:
    """An image whose greys are rounded to 8 bits and divided by the largest where it is read."""

    grey: Float[Tensor, "1 1 height width"]

    @property
    def size(self) -> Size:
        """Return height and width."""
        return self.grey.shape[2], self.grey.shape[3]

    @cached_property
    def _white(self) -> Tensor:
        return (self.grey.max().double() * 255).round().clamp(min=1)

    def read_exact(self, region: Region) -> Float64[Tensor, "1 1 height width"]:
        """Return a part in float64."""
        part = region.cut(self.grey, Region.whole(self.size))
        return (part.double() * 255).round() / self._white

    def read(self, region: Region) -> Float[Tensor, "1 1 height width"]:
        """Return a part."""
        return self.read_exact(region).float()


@dataclass(frozen=True)
class EnlargedGreys:
    """The same image enlarged by OpenCV's bilinear rule where it is read."""

    source: RoundedGreys
    factor: float

    @property
    def size(self) -> Size:
        """Return height and width, rounded as OpenCV does."""
        height, width = self.source.size
        return round(height * self.factor), round(width * self.factor)

    def read(self, region: Region) -> Float[Tensor, "1 1 height width"]:
        """Return a part."""
        height, width = self.source.size
        rows = _opencv_taps(region.top, region.bottom, height, self.factor)
        columns = _opencv_taps(region.left, region.right, width, self.factor)
        used = Region(*rows.span(), *columns.span())
        return sample(self.source.read_exact(used), used, rows, columns).float()


def reduce_in_strips(
    read: ReadExact,
    size: Size,
    factor: float,
    blur: Callable[[Tensor], Tensor],
    radius_px: int,
) -> Float64[Tensor, "1 1 _ _"]:
    """Return an image made smaller by a factor.

    Args:
        read: gives parts of the image.
        size: of the image.
        factor: above 1; sizes are rounded up.
        blur: smooths a part, whose edges count as those of the image.
        radius_px: how far ``blur`` reaches.
    """
    height, width = (math.ceil(side / factor) for side in size)
    columns = _centred_taps(0, width, size[1], width)
    strips = []
    for top in range(0, height, STRIP_ROWS):
        rows = _centred_taps(top, min(top + STRIP_ROWS, height), size[0], height)
        needed = Region(*rows.span(), 0, size[1])
        seen = needed.grow(radius_px, size)
        smooth = needed.cut(blur(read(seen)), seen)
        strips.append(sample(smooth, needed, rows, columns))
    return torch.cat(strips, dim=2)


def _centred_taps(first: int, end: int, source: int, target: int) -> Taps:
    """Linear, pixel areas aligned, in float64."""
    centre = torch.arange(first, end, dtype=torch.float64) + 0.5
    return linear_taps(centre * (source / target) - 0.5, source)


def _opencv_taps(first: int, end: int, source: int, factor: float) -> Taps:
    """Linear, pixel areas aligned by the factor instead of the sizes; OpenCV rounds to float32."""
    centre = torch.arange(first, end, dtype=torch.float64) + 0.5
    return linear_taps((centre * (1 / factor) - 0.5).float(), source)
