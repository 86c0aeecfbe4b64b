"""The outer pyramid: the image at several sizes, and how many keypoints each size may give.

Level l is the image made smaller by ``factor ** l``; levels below zero are enlarged. A keypoint of
level l has the scale ``factor ** l``.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rekd_hloc.config import DetectorConfig
from rekd_hloc.features.detector.resample import cubic_taps, resize_image, sample, size_at
from rekd_hloc.features.detector.tiles import (
    Pixels,
    PyramidPixels,
    Region,
    Size,
    StoredPixels,
    needs_tiles,
)
from rekd_hloc.types import Keypoints

SAME_STEPS = 1e-9
"""Steps of the outer pyramid between two levels that are one; logarithms are rounded."""


@dataclass(frozen=True)
class Level:
    """Hold one size of the image.

    Attributes:
        pixels: grey values, with those of the inner levels where there are any; a large enlarged
            level is computed where it is read.
        number: l, negative for enlarged levels.
        scale: ``factor ** l``.
        ratio: image pixels for one level pixel, (x, y).
        in_tiles: compute it in tiles, if the network can.
    """

    pixels: Pixels
    number: int
    scale: float
    ratio: tuple[float, float]
    in_tiles: bool = False

    @property
    def image(self) -> Float[Tensor, "batch 1 height width"]:
        """Return all grey values."""
        return self.pixels.read(Region.whole(self.pixels.size))

    def place(
        self,
        xy: Float[Tensor, "keypoint 2"],
        score: Float[Tensor, " keypoint"],
        angle: Float[Tensor, " keypoint"],
    ) -> Keypoints:
        """Return keypoints of the image from what was found in the level's pixels."""
        return Keypoints(self.to_image(xy), torch.full_like(score, self.scale), angle, score)

    def to_image(self, xy: Float[Tensor, "keypoint 2"]) -> Float[Tensor, "keypoint 2"]:
        """Map pixels of the level to pixels of the image: the corners of both coincide."""
        return (xy + 0.5) * xy.new_tensor(self.ratio) - 0.5


def iterate_levels(
    image: Float[Tensor, "batch 1 height width"],
    config: DetectorConfig,
    inner_scales: Sequence[float] = (),
) -> Iterator[Level]:
    """Return the levels of images, from the largest to the smallest with room inside the border.

    Args:
        image: grey, 0..1; several are of one size.
        config: of the pyramid.
        inner_scales: how much smaller the inner levels are that come from the same pyramid,
            from 1 up; with none a level has its own pixels alone.
    """
    height, width = whole = image.shape[2], image.shape[3]
    largest = size_at(whole, config.factor**-config.levels_up)
    kept: dict[Size, Pixels] = {}
    for number in range(-config.levels_up, config.levels_down + 1):
        scale = config.factor**number
        size = size_at(whole, scale)
        if min(size) <= 2 * config.border_px:
            continue
        in_tiles = needs_tiles(size, largest)
        sizes = [
            size,
            *(
                size_at(whole, _inner_scale(number, inner, config.factor))
                for inner in inner_scales[1:]
            ),
        ]
        kept = {
            inner: kept.get(inner) or _resample(image.float(), inner, in_parts=in_tiles)
            for inner in sizes
        }
        images = tuple(kept[inner] for inner in sizes)
        yield Level(
            pixels=PyramidPixels(images) if inner_scales else images[0],
            number=number,
            scale=scale,
            ratio=(width / size[1], height / size[0]),
            in_tiles=in_tiles,
        )


def level_budgets(config: DetectorConfig) -> dict[int, int]:
    """Keypoints that each level should give: in proportion to its area, one at least (paper)."""
    numbers = range(-config.levels_up, config.levels_down + 1)
    shares = [config.factor ** (-2.0 * number) for number in numbers]
    total = sum(shares)
    return {
        number: int(config.max_keypoints * share / total) + 1
        for number, share in zip(numbers, shares, strict=True)
    }


def select_within_budgets(
    level: Int64[Tensor, " keypoint"],
    score: Float[Tensor, " keypoint"],
    config: DetectorConfig,
) -> Int64[Tensor, " selected"]:
    """Return the indices of the selected keypoints, strongest first.

    From the largest level to the smallest, each gives its best ones up to its budget; what a level
    cannot fill is handed to the next coarser one (paper). With ``fill_budget``, what is still
    lacking after the coarsest goes to the strongest that were left over, wherever they are.
    """
    is_selected = torch.zeros(len(score), dtype=torch.bool, device=score.device)
    order = torch.argsort(score, descending=True, stable=True)
    carried = 0
    for number, budget in level_budgets(config).items():
        members = order[level[order] == number]
        allowed = budget + carried
        is_selected[members[:allowed]] = True
        carried = max(allowed - len(members), 0)
    selected, left = order[is_selected[order]], order[~is_selected[order]]
    lacking = max(config.max_keypoints - len(selected), 0) if config.fill_budget else 0
    selected = torch.cat([selected[: config.max_keypoints], left[:lacking]])
    return selected[torch.argsort(score[selected], descending=True, stable=True)]


def strongest_of_each_level(
    level: Int64[Tensor, " keypoint"], score: Float[Tensor, " keypoint"], count: int
) -> Int64[Tensor, " selected"]:
    """Indices of the ``count`` best of every level, strongest first over all levels."""
    order = torch.argsort(score, descending=True, stable=True)
    is_selected = torch.zeros(len(score), dtype=torch.bool, device=score.device)
    for number in torch.unique(level):
        is_selected[order[level[order] == number][:count]] = True
    return order[is_selected[order]]


@dataclass(frozen=True)
class EnlargedPixels:
    """An image that is enlarged where it is read, as torch does it (bicubic, clamped to 0..1)."""

    source: Float[Tensor, "batch 1 height width"]
    size: Size

    def read(self, region: Region) -> Float[Tensor, "batch 1 height width"]:
        """Return a part of the enlarged image."""
        height, width = self.source.shape[2:]
        rows = cubic_taps(region.top, region.bottom, height, self.size[0])
        columns = cubic_taps(region.left, region.right, width, self.size[1])
        return sample(self.source, Region.whole((height, width)), rows, columns).clamp(0, 1)


def _inner_scale(number: int, inner: float, factor: float) -> float:
    """Return the scale of an inner level: exactly that of an outer one where it is one."""
    steps = math.log(inner) / math.log(factor)
    if abs(steps - round(steps)) < SAME_STEPS:
        return factor ** (number + round(steps))
    return factor**number * inner


def _resample(image: Tensor, size: Size, *, in_parts: bool) -> Pixels:
    if size[0] > image.shape[2] and in_parts:
        return EnlargedPixels(image, size)
    return StoredPixels(resize_image(image, size))
