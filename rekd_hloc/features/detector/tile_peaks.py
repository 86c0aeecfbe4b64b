"""Maxima of a score map from its tiles: those of the whole map, in their order."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from rekd_hloc.config import DetectorConfig
from rekd_hloc.features.detector.keypoints import (
    FIT_RADIUS_PX,
    find_local_maxima,
    refine_positions,
)
from rekd_hloc.features.detector.tiles import Region, RegionMaps


def tile_margin_px(config: DetectorConfig) -> int:
    """Return how far beyond a tile the score must be known: suppression and fit reach there."""
    return max(config.nms_window_px // 2, FIT_RADIUS_PX)


@dataclass(frozen=True)
class TilePeaks:
    """Maxima in a tile.

    Attributes:
        xy: refined, in pixels of the level.
        score: refined.
        response: the score at the maximum's pixel, which ranks it.
        number: of that pixel in the level, row by row; of equal responses the first ranks first.
    """

    xy: Float64[Tensor, "keypoint 2"]
    score: Float[Tensor, " keypoint"]
    response: Float[Tensor, " keypoint"]
    number: Int64[Tensor, " keypoint"]

    def __getitem__(self, index: Int64[Tensor, " selected"]) -> Self:
        """Return the maxima that an index tensor selects."""
        parts = (self.xy, self.score, self.response, self.number)
        xy, score, response, number = (part[index] for part in parts)
        return replace(self, xy=xy, score=score, response=response, number=number)


def find_tile_peaks(
    maps: RegionMaps, tile: Region, config: DetectorConfig, *, every: bool
) -> TilePeaks:
    """Return the maxima in a tile, from maps with a margin; ``max_keypoints`` or every one."""
    seen, border_px, (height, width) = maps.region, config.border_px, maps.size
    score = maps.score[0, 0]
    inside = Region(border_px, height - border_px, border_px, width - border_px)
    valid = torch.zeros_like(score, dtype=torch.bool)
    inside.within(seen).cut(valid, seen).fill_(True)
    pixel = find_local_maxima(
        score,
        window_px=config.nms_window_px,
        border_px=0,
        threshold=config.score_threshold,
        min_prominence=config.min_prominence,
        valid=valid,
    )
    place = pixel + pixel.new_tensor([seen.left, seen.top])
    in_tile = torch.nonzero(tile.contains(place))[:, 0]
    if not every:
        in_tile = in_tile[: config.max_keypoints]
    pixel, place = pixel[in_tile], place[in_tile]
    response = score[pixel[:, 1], pixel[:, 0]]
    number = place[:, 1] * width + place[:, 0]
    if not config.subpixel:
        return TilePeaks(place.double(), response, response, number)
    xy, refined = refine_positions(score, pixel, (seen.left, seen.top))
    return TilePeaks(xy.double(), refined, response, number)


def rank_peaks(
    response: Float[Tensor, " keypoint"], number: Int64[Tensor, " keypoint"]
) -> Int64[Tensor, " keypoint"]:
    """Return the order in which the whole map would give the maxima of all tiles."""
    by_place = torch.argsort(number)
    return by_place[torch.argsort(response[by_place], descending=True, stable=True)]
