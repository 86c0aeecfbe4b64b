"""What the protocols measure on one image pair; :mod:`evaluation.homography.protocols` names them.

Shares lie in [0, 1], distances are in pixels of the protocol's frame. Matches are mutual nearest
neighbours; metrics that end in ``_filtered`` are taken after a filter, the paper's by default.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.command_line import PAPER_FILTER
from evaluation.extractors.match_refiner import MatchRefiner
from evaluation.extractors.named_extractor import select
from evaluation.metrics.homography import (
    accuracy_of_matches,
    corner_error,
    distinct_points,
    repeatability_overlap,
    repeatability_rekd,
    repeatability_symmetric,
    visible_points,
)
from rekd_hloc.config import MatchConfig
from rekd_hloc.geometry import warp_points, warp_scales
from rekd_hloc.matching.match import match
from rekd_hloc.matching.nearest import match_nearest
from rekd_hloc.types import Features, Keypoints, Matches

Metrics = dict[str, float | list[float] | None]
"""Metrics of one image pair, or means over pairs. Shares lie in [0, 1]; None: does not apply."""

THRESHOLDS_PX = torch.arange(1, 11).float()
PRECISE_PX = torch.tensor([0.5, 1.0, 2.0, 3.0])
"""Of matching accuracy where the precision of positions is the question."""
ROBUST_THRESHOLD_PX = 3.0


@dataclass(frozen=True)
class PairInput:
    """What a protocol measures: two images' features, strongest first, in one protocol's frame."""

    a: Features
    b: Features
    b_from_a: Float[Tensor, "3 3"]
    num_used: int
    """Keypoints of each image that may be used."""
    has_orientation: bool
    """False where all angles are zero: the orientation filter then does not apply."""
    filter: MatchConfig = PAPER_FILTER
    """Of the metrics that end in ``_filtered``."""
    refiner: MatchRefiner | None = None
    """What refines the positions of matches before they are measured."""


def measure_rekd(pair: PairInput) -> Metrics:
    """REKD's protocol: repeatability over all keypoints of a, and matching accuracy.

    Beside them the share of keypoints of both images that are distinct, which the protocol does not
    ask for, and the repeatability of these alone.
    """
    a, b = _strongest(pair.a, pair.num_used), _strongest(pair.b, pair.num_used)
    xy_a, xy_b = a.keypoints.xy, b.keypoints.xy
    is_distinct_a, is_distinct_b = distinct_points(xy_a), distinct_points(xy_b)
    apart_a, apart_b = xy_a[is_distinct_a], xy_b[is_distinct_b]
    count = max(len(a) + len(b), 1)
    return {
        "repeatability": repeatability_rekd(xy_a, xy_b, pair.b_from_a),
        "distinct": (len(apart_a) + len(apart_b)) / count,
        "repeatability_distinct": repeatability_rekd(apart_a, apart_b, pair.b_from_a),
        **_measure_accuracy(a, b, pair),
    }


def measure_d2net(pair: PairInput) -> Metrics:
    """D2-Net's protocol: matching accuracy alone."""
    a, b = _strongest(pair.a, pair.num_used), _strongest(pair.b, pair.num_used)
    return {"num_keypoints": (len(a) + len(b)) / 2, **_measure_accuracy(a, b, pair)}


def _measure_accuracy(a: Features, b: Features, pair: PairInput) -> Metrics:
    def accuracy(thresholds_px: Tensor) -> Measure:
        return lambda a, b, m: accuracy_of_matches(a, b, m, pair.b_from_a, thresholds_px)

    measures = {"mma": accuracy(THRESHOLDS_PX), "mma_precise": accuracy(PRECISE_PX)}
    return _measure_matches(a, b, pair, measures)


Measure = Callable[[Features, Features, Matches], float | list[float]]


def _measure_matches(
    a: Features, b: Features, pair: PairInput, measures: Mapping[str, Measure]
) -> Metrics:
    """Metrics of the mutual nearest neighbours, and of those that the filter keeps."""

    def measure(matches: Matches, suffix: str) -> Metrics:
        matched = pair.refiner(a, b, matches) if pair.refiner else (a, b, matches)
        metrics: Metrics = {f"{key}{suffix}": one(*matched) for key, one in measures.items()}
        return {**metrics, f"num_matches{suffix}": len(matches)}

    matches = match_nearest(a.descriptors, b.descriptors)
    metrics = measure(matches, "")
    if pair.has_orientation:
        return metrics | measure(match(a, b, pair.filter), "_filtered")
    return metrics | {f"{key}_filtered": None for key in metrics}


def measure_keynet(pair: PairInput) -> Metrics:
    """Key.Net's protocol: overlap of circles of equal radii, and of the keypoints' own."""
    a, b = _visible_in_both(pair)
    xy = warp_points(pair.b_from_a, a.xy.double())
    radius = warp_scales(pair.b_from_a, a.xy.double(), a.scale.double())
    same = torch.ones(len(a), dtype=torch.float64), torch.ones(len(b), dtype=torch.float64)
    return {
        "repeatability_single": repeatability_overlap(xy, same[0], b.xy.double(), same[1]),
        "repeatability_multi": repeatability_overlap(xy, radius, b.xy.double(), b.scale.double()),
        "num_keypoints": float(min(len(a), len(b))),
    }


def measure_superpoint(pair: PairInput) -> Metrics:
    """SuperPoint's protocol: symmetric repeatability and localisation error."""
    a, b = _visible_in_both(pair)
    curve = [
        repeatability_symmetric(a.xy, b.xy, pair.b_from_a, threshold_px=float(t))[0]
        for t in THRESHOLDS_PX
    ]
    repeated, localisation = repeatability_symmetric(a.xy, b.xy, pair.b_from_a)
    return {
        "repeatability": repeated,
        "localisation_px": None if math.isnan(localisation) else localisation,
        "repeatability_curve": curve,
        "num_keypoints": (len(a) + len(b)) / 2,
    }


def _visible_in_both(pair: PairInput) -> tuple[Keypoints, Keypoints]:
    """Return the strongest of those keypoints whose place the other image shows."""
    a, b = pair.a.keypoints, pair.b.keypoints
    a_from_b = torch.linalg.inv(pair.b_from_a)
    in_b = visible_points(a.xy, pair.b_from_a, pair.b.image_size)
    in_a = visible_points(b.xy, a_from_b, pair.a.image_size)
    return _cut(a[in_b], pair.num_used), _cut(b[in_a], pair.num_used)


def measure_homography(pair: PairInput) -> Metrics:
    """Corner error of the homography estimated from the matches."""
    a, b = _strongest(pair.a, pair.num_used), _strongest(pair.b, pair.num_used)
    measures = {"corner_error_px": lambda a, b, m: _corner_error(a, b, m, pair.b_from_a)}
    return _measure_matches(a, b, pair, measures)


def _corner_error(a: Features, b: Features, matches: Matches, b_from_a: Tensor) -> float:
    """Error of the homography that OpenCV's MAGSAC++ finds; infinite where it finds none."""
    if len(matches) < 4:
        return math.inf
    estimated, _ = cv2.findHomography(
        a.keypoints.xy[matches.index[:, 0]].numpy(),
        b.keypoints.xy[matches.index[:, 1]].numpy(),
        cv2.USAC_MAGSAC,
        ROBUST_THRESHOLD_PX,
        maxIters=10_000,
        confidence=0.99999,
    )
    if estimated is None:
        return math.inf
    return corner_error(torch.from_numpy(estimated), b_from_a, a.image_size)


def _strongest(features: Features, count: int) -> Features:
    """The first ``count`` keypoints; features come strongest first."""
    return select(features, torch.arange(min(count, len(features))))


def _cut(keypoints: Keypoints, count: int) -> Keypoints:
    return keypoints[torch.arange(min(count, len(keypoints)))]
