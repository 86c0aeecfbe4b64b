"""A grey image at sizes half an octave apart, all in one picture, read between pixels."""

import math
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

MIN_SIDE_PX = 8
"""No level is smaller than that, the image itself excepted."""
MARGIN_PX = 2
"""Around each level, filled with its edge, so that no level bleeds into another."""
MAX_DOUBLED_PIXELS = 1 << 22
"""An image with more pixels has no level of twice its size. The pyramid takes 28 bytes a pixel."""
MAX_PIXELS = 1 << 24
"""An image with more pixels is halved until it has not. The pyramid then takes up to 220 MB."""
OVERSAMPLING = 2**0.5
"""Pixels of a level between two samples, at least: bilinear interpolation moves edges otherwise."""


@dataclass(frozen=True, eq=False)
class ImagePyramid:
    """Hold an image at twice its size, its own, and 1 / sqrt(2), 1 / 2, ... of it.

    Attributes:
        atlas: the levels in one picture.
        size: (width, height) of the image, in its own pixels.
        factors: (width, height) of each level over those of the image.
        corners: (column, row) of each level's first pixel in the atlas.
        pixel: side of each level's pixels in pixels of the image, nearly.
    """

    atlas: Float[Tensor, "row column"]
    size: tuple[int, int]
    factors: Float[Tensor, "level 2"]
    corners: Float[Tensor, "level 2"]
    pixel: Float[Tensor, " level"]

    @classmethod
    def of(cls, image: Float[Tensor, "height width"]) -> Self:
        """Build the pyramid of a grey image; every smaller level averages areas of a larger one."""
        height, width = image.shape
        base = _shrunk(image.float(), MAX_PIXELS)
        levels = [base]
        while True:
            size = [math.ceil(side * 2 ** (-len(levels) / 2)) for side in base.shape]
            if min(size) < MIN_SIDE_PX:
                break
            levels.append(_resized(levels[max(len(levels) - 2, 0)], size))
        pixel = [height / base.shape[0] * 2 ** (number / 2) for number in range(len(levels))]
        if base.numel() <= MAX_DOUBLED_PIXELS:
            levels.insert(0, _resized(base, [2 * side for side in base.shape], "bicubic"))
            pixel.insert(0, 0.5)
        sizes = base.new_tensor([level.shape[::-1] for level in levels])
        atlas, corners = _pack(levels)
        return cls(
            atlas,
            (width, height),
            sizes / sizes.new_tensor([width, height]),
            sizes.new_tensor(corners),
            sizes.new_tensor(pixel),
        )

    @property
    def num_bytes(self) -> int:
        """Return how much memory the levels take."""
        return self.atlas.numel() * self.atlas.element_size()

    def level_of(self, step_px: Float[Tensor, " patch"]) -> Int64[Tensor, " patch"]:
        """Return the coarsest levels that have enough pixels for steps of that length."""
        level = torch.searchsorted(self.pixel, step_px * (1.001 / OVERSAMPLING), right=True) - 1
        return level.clamp(min=0)

    def read(
        self,
        center: Float[Tensor, "patch 2"],
        axes: Float[Tensor, "patch 2 2"],
        level: Int64[Tensor, " patch"],
        size: tuple[int, int],
    ) -> Float[Tensor, "patch row column"]:
        """Return grey values on grids about the centres, bilinear between pixels.

        Beyond the image, values are of no meaning; ask :meth:`contains`.

        Args:
            center: of the grids, in pixels of the image.
            axes: columns are the steps of one sample to the right and down, in pixels.
            level: to read each patch from.
            size: (width, height) of a grid in samples.
        """
        rows, columns = self.atlas.shape
        factor = self.factors[level]
        scale = 2 / center.new_tensor([columns, rows])
        start = ((center + 0.5) * factor + self.corners[level]) * scale - 1
        right, down = (axes * (factor * scale)[:, :, None]).unbind(dim=2)
        x, y = (torch.arange(side).to(center) - (side - 1) / 2 for side in size)
        in_row = (start[:, None] + right[:, None] * x[:, None]).flatten(start_dim=1)
        in_column = down.repeat(1, size[0])
        grid = torch.addcmul(in_row[:, None], in_column[:, None], y[:, None])
        values = F.grid_sample(
            self.atlas[None, None],
            grid.reshape(1, -1, size[0], 2),
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
        return values.reshape(len(center), size[1], size[0])

    def contains(
        self, center: Float[Tensor, "patch 2"], axes: Float[Tensor, "patch 2 2"], radius: float
    ) -> Bool[Tensor, " patch"]:
        """Say which patches lie in the image, as far as ``radius`` samples from their centres."""
        reach = radius * axes.abs().sum(dim=2)
        limit = center.new_tensor(self.size) - 1
        return ((center - reach >= 0) & (center + reach <= limit)).all(dim=1)


def _shrunk(image: Tensor, max_pixels: int) -> Tensor:
    while image.numel() > max_pixels:
        image = _resized(image, [math.ceil(side / 2) for side in image.shape])
    return image


def _resized(image: Tensor, size: list[int], mode: str = "bilinear") -> Tensor:
    other = F.interpolate(image[None, None], size, mode=mode, antialias=True, align_corners=False)
    return other[0, 0]


def _pack(levels: list[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
    """Return one picture of all levels, in rows as wide as the first, and where each begins."""
    corners, left, top, bottom = [], 0, 0, 0
    total_width = levels[0].shape[1] + 2 * MARGIN_PX
    for level in levels:
        height, width = (side + 2 * MARGIN_PX for side in level.shape)
        if left + width > total_width:
            left, top = 0, bottom
        corners.append((left, top))
        left, bottom = left + width, max(bottom, top + height)
    atlas = levels[0].new_zeros(bottom, total_width)
    frame = (MARGIN_PX, MARGIN_PX, MARGIN_PX, MARGIN_PX)
    for level, (left, top) in zip(levels, corners, strict=True):
        padded = F.pad(level[None, None], frame, mode="replicate")[0, 0]
        atlas[top : top + padded.shape[0], left : left + padded.shape[1]] = padded
    return atlas, [(left + MARGIN_PX, top + MARGIN_PX) for left, top in corners]
