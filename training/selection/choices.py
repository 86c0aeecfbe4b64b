"""Ways to choose the keypoints that fill a budget; each returns indices, the best first."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rekd_hloc.config import DetectorConfig
from rekd_hloc.features.described import Described
from rekd_hloc.features.detector.pyramid import select_within_budgets
from rekd_hloc.features.ranking import EXACT, Ranking, likenesses
from rekd_hloc.types import Keypoints

Order = Int64[Tensor, " chosen"]
Choose = Callable[[Described, DetectorConfig], Order]
"""From candidates and the detector's options, of which ``max_keypoints`` is the budget."""

STRONGER = 0.9
"""A keypoint stands back behind those whose score, times this, is above its own (Brown et al.)."""
SEARCH_STEPS = 12
"""Halvings of the interval in which the radius of discs is sought."""


def level_of(keypoints: Keypoints, config: DetectorConfig) -> Int64[Tensor, " keypoint"]:
    """Return the pyramid level that each keypoint was detected on."""
    level: Tensor = (keypoints.scale.double().log() / math.log(config.factor)).round().long()
    return level


def by_score(candidates: Described, config: DetectorConfig) -> Order:
    """Choose as the detector does: the strongest within the budgets of the levels."""
    keypoints = candidates.keypoints
    return select_within_budgets(level_of(keypoints, config), keypoints.score, config)


def by_score_alone(candidates: Described, config: DetectorConfig) -> Order:
    """Choose the strongest of all levels."""
    return _highest(candidates.keypoints.score, config)


def by_distinctness(candidates: Described, config: DetectorConfig) -> Order:
    """Choose those whose descriptor is far from all others of the image."""
    return _highest(-likenesses(candidates)[0], config)


def by_likeness(candidates: Described, config: DetectorConfig) -> Order:
    """Choose those whose descriptor is near to another of the image."""
    return _highest(likenesses(candidates)[0], config)


def without_level_above(candidates: Described, config: DetectorConfig) -> Order:
    """Choose as the detector does, from the image's own size and the levels below it."""
    used = torch.nonzero(level_of(candidates.keypoints, config) >= 0)[:, 0]
    return used[by_score(candidates[used], config)]


def by_level_shares(shares: Mapping[int, float]) -> Choose:
    """Make a choice that gives each level its share of the budget, the strongest of each first.

    What a level cannot fill goes to the strongest that are left.
    """

    def choose(candidates: Described, config: DetectorConfig) -> Order:
        level, score = level_of(candidates.keypoints, config), candidates.keypoints.score
        total = sum(shares.values())
        chosen = torch.zeros(len(score), dtype=torch.bool)
        order = torch.argsort(score, descending=True, stable=True)
        for number, share in shares.items():
            members = order[level[order] == number]
            chosen[members[: round(config.max_keypoints * share / total)]] = True
        first, left = order[chosen[order]], order[~chosen[order]]
        return torch.cat([first, left])[: config.max_keypoints]

    return choose


def by_ranking(ranking: Ranking, pool: float) -> Choose:
    """Make a choice by a learned ranking among ``pool`` times the budget, chosen by score."""

    def choose(candidates: Described, config: DetectorConfig) -> Order:
        pooled = replace(config, max_keypoints=round(pool * config.max_keypoints))
        members = by_score(candidates, pooled)
        return members[ranking.order(candidates[members])][: config.max_keypoints]

    return choose


def by_suppression_radius(candidates: Described, config: DetectorConfig) -> Order:
    """Choose by adaptive non-maximum suppression: those with the farthest stronger neighbour."""
    keypoints = candidates.keypoints
    xy, score = keypoints.xy.double(), keypoints.score
    radius = torch.zeros(len(score), dtype=torch.float64)
    for rows in torch.split(torch.arange(len(score)), 1024) if len(score) else ():
        weaker = score[rows, None] >= STRONGER * score[None]
        distance = torch.cdist(xy[rows], xy, compute_mode=EXACT).masked_fill(weaker, torch.inf)
        radius[rows] = distance.amin(dim=1)
    order = torch.argsort(score, descending=True, stable=True)
    by_radius = torch.argsort(radius[order], descending=True, stable=True)
    return order[by_radius][: config.max_keypoints]


def by_discs(candidates: Described, config: DetectorConfig) -> Order:
    """Choose the strongest that lie outside the discs about those chosen before.

    The radius of the discs, in pixels of the keypoint's level, is the largest that fills the
    budget (Gauglitz et al.: suppression by disc covering).
    """
    keypoints = candidates.keypoints
    if len(keypoints) <= config.max_keypoints:
        return by_score_alone(candidates, config)
    order = torch.argsort(keypoints.score, descending=True, stable=True).numpy()
    xy, scale = keypoints.xy.numpy()[order], keypoints.scale.numpy()[order]
    low, high, best = 0.0, 100.0, np.arange(len(order))
    for _ in range(SEARCH_STEPS):
        middle = (low + high) / 2
        kept = _cover(xy, middle * scale)
        if len(kept) >= config.max_keypoints:
            low, best = middle, kept
        else:
            high = middle
    return torch.from_numpy(order[best[: config.max_keypoints]].copy())


def _highest(value: Float[Tensor, " keypoint"], config: DetectorConfig) -> Order:
    return torch.argsort(value, descending=True, stable=True)[: config.max_keypoints]


def _cover(xy: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Take points in their order, each unless one within its own radius was taken already."""
    from scipy.spatial import cKDTree

    neighbours = cKDTree(xy).query_ball_point(xy, radius)
    taken = np.zeros(len(xy), dtype=bool)
    for i, near in enumerate(neighbours):
        taken[i] = not taken[near].any()
    return np.flatnonzero(taken)


CHOICES: dict[str, Choose] = {
    "score": by_score,
    "score-alone": by_score_alone,
    "distinct": by_distinctness,
    "alike": by_likeness,
    "no-level-above": without_level_above,
    "suppression-radius": by_suppression_radius,
    "discs": by_discs,
}
"""By name: those that need nothing else."""
