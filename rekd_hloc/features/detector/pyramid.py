"""The outer pyramid: the image at several sizes, and how many keypoints each size may give.

Level l is the image made smaller by ``factor ** l``; levels below zero are enlarged. A keypoint of
level l has the scale ``factor ** l``.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from rekd_hloc.config import DetectorConfig
from rekd_hloc.features.detector.level import Level
from rekd_hloc.features.detector.paper_pyramid import iterate_paper_levels


def iterate_levels(
    image: Float[Tensor, "1 1 height width"], config: DetectorConfig
) -> Iterator[Level]:
    """The levels from the largest to the smallest that still has room inside the border.

    The image's own size is there without room too if all orientations are read from it.
    """
    if config.pyramid == "paper":
        yield from iterate_paper_levels(image, config)
        return
    height, width = image.shape[2:]
    for number in range(-config.levels_up, config.levels_down + 1):
        scale = config.factor**number
        size = max(round(height / scale), 1), max(round(width / scale), 1)
        is_read = number == 0 and config.orientation_level == "original"
        if min(size) <= 2 * config.border_px and not is_read:
            continue
        yield Level(
            image=_resample(image.float(), size),
            number=number,
            scale=scale,
            ratio=(width / size[1], height / size[0]),
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
    """Indices of the keypoints kept, strongest first.

    From the largest level to the smallest, each gives its best ones up to its budget; what a level
    cannot fill is handed to the next coarser one (paper). With ``fill_budget``, what is still
    lacking after the coarsest goes to the strongest that were left over, wherever they are.
    """
    chosen = torch.zeros(len(score), dtype=torch.bool, device=score.device)
    order = torch.argsort(score, descending=True, stable=True)
    carried = 0
    for number, budget in level_budgets(config).items():
        members = order[level[order] == number]
        allowed = budget + carried
        chosen[members[:allowed]] = True
        carried = max(allowed - len(members), 0)
    kept, left = order[chosen[order]], order[~chosen[order]]
    lacking = max(config.max_keypoints - len(kept), 0) if config.fill_budget else 0
    kept = torch.cat([kept[: config.max_keypoints], left[:lacking]])
    return kept[torch.argsort(score[kept], descending=True, stable=True)]


def strongest_of_each_level(
    level: Int64[Tensor, " keypoint"], score: Float[Tensor, " keypoint"], count: int
) -> Int64[Tensor, " selected"]:
    """Indices of the ``count`` best of every level, strongest first over all levels."""
    order = torch.argsort(score, descending=True, stable=True)
    kept = torch.zeros(len(score), dtype=torch.bool, device=score.device)
    for number in torch.unique(level):
        kept[order[level[order] == number][:count]] = True
    return order[kept[order]]


def _resample(image: Tensor, size: tuple[int, int]) -> Tensor:
    if image.shape[2:] == torch.Size(size):
        return image
    enlarge = size[0] > image.shape[2]
    mode = "bicubic" if enlarge else "bilinear"
    resampled = F.interpolate(image, size, mode=mode, antialias=not enlarge, align_corners=False)
    return resampled.clamp(0, 1) if enlarge else resampled
