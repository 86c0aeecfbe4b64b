"""The best maxima of one level of several images, as tables whose shape is known beforehand.

Nothing here waits for a GPU or brings a number to it, so that all of it can be captured as one CUDA
graph. A level of a single image takes the ways of
:class:`~rekd_hloc.features.detector.detect.Detector`, which these equal.
"""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rekd_hloc.config import DetectorConfig
from rekd_hloc.features.detector.keypoints import (
    keep_inside,
    mark_maxima,
    read_around,
    refine_peaks,
)
from rekd_hloc.features.detector.network import DetectorNetwork
from rekd_hloc.features.detector.orientation import read_batch_logits

NOT_A_PEAK = -(1 << 62)
"""Place in the order of what is no maximum: after every pixel of every map."""
COLUMNS = (1, 2, 1, 25)
"""Of a packed table: whether the row is a maximum, x and y, the score, and the 5x5 responses about
the nearest pixel; the logits follow."""


@dataclass(frozen=True, eq=False)
class LevelPeaks:
    """Maxima of several images, one row for each; the best of an image come first.

    Attributes:
        is_there: False for rows that are no maximum, and mean nothing.
        xy: in pixels of the level.
        score: response, refined if the position is.
        around: responses about the pixel nearest to ``xy``.
        logits: of the orientation histogram at ``xy``.
    """

    is_there: Bool[Tensor, "*batch row"]
    xy: Float[Tensor, "*batch row 2"]
    score: Float[Tensor, "*batch row"]
    around: Float[Tensor, "*batch row 5 5"]
    logits: Float[Tensor, "*batch row bin"]

    def pack(self) -> Float[Tensor, "*batch row column"]:
        """Return one tensor that holds all."""
        parts = [self.is_there[..., None].float(), self.xy, self.score[..., None]]
        return torch.cat([*parts, self.around.flatten(-2), self.logits], dim=-1)

    @classmethod
    def unpack(cls, packed: Float[Tensor, "*batch row column"]) -> Self:
        """Return what :meth:`pack` was given."""
        sizes = [*COLUMNS, packed.shape[-1] - sum(COLUMNS)]
        is_there, xy, score, around, logits = torch.split(packed, sizes, dim=-1)
        around = around.reshape(*around.shape[:-1], 5, 5)
        return cls(is_there[..., 0] > 0, xy, score[..., 0], around, logits)


def find_level_peaks(
    network: DetectorNetwork, images: Float[Tensor, "batch 1 height width"], config: DetectorConfig
) -> LevelPeaks:
    """Return the ``max_keypoints`` best maxima of each image, or all pixels if there are fewer.

    Args:
        network: not in tiles.
        images: one level of each, larger than its two borders.
        config: suppression and budget.
    """
    maps, logits = network.level_maps(images)
    score = maps[:, 0].contiguous()
    inside = keep_inside(score, config.border_px)
    is_peak = mark_maxima(
        score,
        inside,
        window_px=config.nms_window_px,
        threshold=config.score_threshold,
        min_prominence=config.min_prominence,
    )
    height, width = score.shape[1:]
    pixel, is_there = best_pixels(inside, is_peak, min(config.max_keypoints, height * width))
    place = torch.stack([pixel % width, pixel // width], dim=-1)
    around = read_around(score, place)
    xy, response = place.to(score.dtype), around[..., 2, 2]
    if config.subpixel:
        offset, response = refine_peaks(around)
        xy = xy + offset
        around = read_around(score, xy.round().long())
    return LevelPeaks(
        is_there, xy, response, around, read_batch_logits(logits, xy, (width, height))
    )


def best_pixels(
    response: Float[Tensor, "batch height width"],
    is_peak: Bool[Tensor, "batch height width"],
    count: int,
) -> tuple[Int64[Tensor, "batch count"], Bool[Tensor, "batch count"]]:
    """Return the numbers of the best maxima, row by row from the first pixel, the best first.

    Of equal responses the first pixel comes first, as a stable sort has it.

    Args:
        response: not negative.
        is_peak: whether a pixel is a maximum.
        count: rows of the answer.

    Returns:
        Numbers, and whether they are of maxima: after the last, any pixels follow.
    """
    bits = response.flatten(1).view(torch.int32).long()  # in the order of the numbers themselves
    pixel = torch.arange(bits.shape[1], device=bits.device)
    order = ((bits << 32) - pixel).masked_fill(~is_peak.flatten(1), NOT_A_PEAK)
    best = order.topk(count, dim=1)
    return best.indices, best.values > NOT_A_PEAK
