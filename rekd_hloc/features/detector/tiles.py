"""Parts of maps: what a large image is computed in, so that memory does not grow with its size.

A part is cut with a margin that covers what an operation reaches, and the margin is cut off again:
borders of the image stay borders, those of a part leave no trace. Resampling alone must know where
the part lies; see :mod:`rekd_hloc.features.detector.resample`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, Self, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

WHOLE_PIXELS = 3200 * 3200
"""An image whose largest level has more is computed in tiles; only the preset of the paper has such
images, others make them smaller (``max_side_px``)."""
TILE_PX = 512
"""Side of a tile without its margin; a network of 36 rotations takes 0.3 GiB for it."""
Size = tuple[int, int]
"""(height, width)."""


@dataclass(frozen=True)
class Region:
    """A rectangle of pixels; ``bottom`` and ``right`` are the first row and column after it."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def whole(cls, size: Size) -> Self:
        """Return the region of a whole map."""
        return cls(0, size[0], 0, size[1])

    @property
    def size(self) -> Size:
        """Return height and width."""
        return self.bottom - self.top, self.right - self.left

    def grow(self, margin: int, size: Size) -> "Region":
        """Return the region with a margin, as far as a map of that size has one."""
        return Region(
            max(self.top - margin, 0),
            min(self.bottom + margin, size[0]),
            max(self.left - margin, 0),
            min(self.right + margin, size[1]),
        )

    def within(self, other: "Region") -> "Region":
        """Return what lies in another region too; without pixels if nothing does."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Region(top, max(bottom, top), left, max(right, left))

    def cut(self, maps: Tensor, covered: "Region") -> Tensor:
        """Return this region of maps whose last two axes cover another."""
        rows = slice(self.top - covered.top, self.bottom - covered.top)
        return maps[..., rows, self.left - covered.left : self.right - covered.left]

    def contains(
        self, xy: Float[Tensor, "point 2"] | Int64[Tensor, "point 2"]
    ) -> Bool[Tensor, " point"]:
        """Say which points lie on its pixels."""
        x, y = xy.unbind(dim=1)
        return (x >= self.left) & (x < self.right) & (y >= self.top) & (y < self.bottom)


def needs_tiles(size: Size, largest: Size) -> bool:
    """Say whether a level is computed in tiles: one of a large image that is more than a tile."""
    return largest[0] * largest[1] > WHOLE_PIXELS and size[0] * size[1] > TILE_PX**2


def iterate_tiles(size: Size, side: int | None = None) -> Iterator[Region]:
    """Return the tiles that a map falls into, row by row; the last ones may be smaller."""
    side = side or TILE_PX
    for top in range(0, size[0], side):
        for left in range(0, size[1], side):
            yield Region(top, min(top + side, size[0]), left, min(left + side, size[1]))


@runtime_checkable
class Pixels(Protocol):
    """A grey image of which any part can be had."""

    @property
    def size(self) -> Size:
        """Return height and width."""

    def read(self, region: Region) -> Float[Tensor, "batch 1 height width"]:
        """Return a part of the image, in float32."""


@dataclass(frozen=True)
class StoredPixels:
    """An image that is there as a whole."""

    image: Float[Tensor, "batch 1 height width"]

    @property
    def size(self) -> Size:
        """Return height and width."""
        return self.image.shape[2], self.image.shape[3]

    def read(self, region: Region) -> Float[Tensor, "batch 1 height width"]:
        """Return a part of the image."""
        return region.cut(self.image, Region.whole(self.size))


@dataclass(frozen=True)
class PyramidPixels:
    """An image with the smaller ones of the same pyramid that a network sees beside it.

    Attributes:
        images: from the largest to the smallest; the first is the image itself.
    """

    images: tuple[Pixels, ...]

    @property
    def size(self) -> Size:
        """Return height and width."""
        return self.images[0].size

    def read(self, region: Region) -> Float[Tensor, "batch 1 height width"]:
        """Return a part of the image."""
        return self.images[0].read(region)


@dataclass(frozen=True)
class PartialMap:
    """A part of a map: its values, where they lie, and the size of the whole.

    With ``align_corners`` its corners are those of the map that it is read for; otherwise the areas
    of the pixels coincide.
    """

    values: Float[Tensor, "1 channel height width"]
    region: Region
    size: Size
    align_corners: bool = True

    def read(self, xy: Float[Tensor, "point 2"], extent: Size) -> Float[Tensor, "point channel"]:
        """Read bilinearly at points of another map, clamped to this one's border.

        Args:
            xy: within the part, in pixels of the other map.
            extent: size of the other map.
        """
        wide = xy.new_tensor([extent[1], extent[0]])
        side = torch.tensor([self.size[1], self.size[0]]).to(self.values)
        limit = side - 1
        # as grid_sample does it, in its precision
        if self.align_corners:
            grid = (2 * xy / (wide - 1).clamp(min=1) - 1).to(self.values.dtype)
            position = (grid + 1) * (limit / 2)
        else:
            grid = ((2 * xy + 1) / wide - 1).to(self.values.dtype)
            position = ((grid + 1) * side - 1) / 2
        position = position.minimum(limit).clamp(min=0)
        low = position.floor()
        x_weight, y_weight = (position - low).T
        first = low.long()
        after = (first + 1).minimum(limit.long())
        (x0, y0), (x1, y1) = first.T, after.T
        plane, left, top = self.values[0], self.region.left, self.region.top
        read = plane[:, y0 - top, x0 - left] * ((1 - x_weight) * (1 - y_weight))
        read = read + plane[:, y0 - top, x1 - left] * (x_weight * (1 - y_weight))
        read = read + plane[:, y1 - top, x0 - left] * ((1 - x_weight) * y_weight)
        read = read + plane[:, y1 - top, x1 - left] * (x_weight * y_weight)
        points: Tensor = read.T
        return points


@dataclass(frozen=True)
class RegionMaps:
    """What a network says about a part of a level.

    Attributes:
        score: of the part.
        logits: of each inner level, the part that the points of ``region`` read.
        region: where the part lies.
        size: of the whole level.
    """

    score: Float[Tensor, "1 1 height width"]
    logits: list[PartialMap]
    region: Region
    size: Size

    def to(self, device: torch.device) -> Self:
        """Return the maps on a device."""
        logits = [replace(part, values=part.values.to(device)) for part in self.logits]
        return replace(self, score=self.score.to(device), logits=logits)

    def read_logits(self, xy: Float[Tensor, "point 2"]) -> Float[Tensor, "point bin"]:
        """Sum the logits of the inner levels at points of the level; they lie in the part."""
        total = self.logits[0].read(xy, self.size)
        for level in self.logits[1:]:
            total = total + level.read(xy, self.size)
        return total
