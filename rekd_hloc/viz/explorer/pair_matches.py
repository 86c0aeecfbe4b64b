"""Pairs of images for the page: the counts of all, the matches and rotations of the strongest."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from rekd_hloc.geometry import TWO_PI
from rekd_hloc.matching.rotations import match_rotations, rotation_modes
from rekd_hloc.progress import progress_bar
from rekd_hloc.types import Keypoints, Matches, Pair
from rekd_hloc.viz.explorer.dropped_matches import DroppedMatches
from rekd_hloc.viz.explorer.packing import STEPS, pack, pack_share
from rekd_hloc.viz.run_files import RunFiles, read_pairs

MAX_COUNTED = 20_000
"""Pairs whose counts are on the page, those with most inliers."""
MAX_DRAWN_PAIRS = 1200
"""Pairs whose matches are on the page, most of them verified ones."""
MAX_FAILED = 100
"""Of those, pairs without inliers that have most matches."""
ALL_MATCHES = 60_000
"""Matches on the page, shared out evenly among the pairs."""
MOST_MATCHES = 400
"""Of one pair."""
BINS = 36
"""Of the histogram of rotations, 10 degrees each."""
KINDS = 3
"""Of matches in it: inliers, outliers, and those that the filter dropped."""
NO_MODE = STEPS["u2"]
"""Stands for a pair on whose rotation the matches do not agree."""
NOT_COUNTED = 2**32 - 1
"""Stands for a pair of which it is not known how many matches the filter dropped."""


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Matches of one pair as shares of the widths and heights of its images.

    ``num_dropped`` is None where it is not known what the filter dropped.
    """

    ends: Float64[np.ndarray, "drawn 4"]
    rotation: Float64[np.ndarray, " drawn"]
    is_inlier: Bool[np.ndarray, " drawn"]
    histogram: Int64[np.ndarray, "kind bin"]
    mode: float | None
    num_dropped: int | None


def describe_pairs(
    run: RunFiles,
    names: Sequence[str],
    sizes: Mapping[str, tuple[int, int]],
    keypoints: Mapping[str, Keypoints],
    *,
    progress: bool = False,
) -> dict[str, Any]:
    """Return the packed pairs of a run; those with matches on the page come first.

    Args:
        run: with counts of matches and inliers.
        names: of all images; a pair is told by their numbers.
        sizes: (width, height) in pixels of the images.
        keypoints: of the images, in their pixels; a pair of others is counted only.
        progress: show a bar on stderr.
    """
    number = {name: k for k, name in enumerate(names)}
    ranked = sorted(
        (pair for pair, count in run.counts.items() if count[0] > 0 and number.keys() >= set(pair)),
        key=lambda pair: (-run.counts[pair][1], -run.counts[pair][0], pair),
    )[:MAX_COUNTED]
    chosen = _choose([p for p in ranked if keypoints.keys() >= set(p)], run)
    rest = [pair for pair in ranked if pair not in set(chosen)]
    quota = min(MOST_MATCHES, max(ALL_MATCHES // max(len(chosen), 1), 12))
    stored = read_pairs(run.output / "database.db", chosen)
    with DroppedMatches.of_run(run) as finder:
        bar = progress_bar(chosen, "page", unit=" pairs", shown=progress)
        drawn = [_draw(pair, *stored[pair], sizes, keypoints, quota, finder) for pair in bar]
    ordered = [*chosen, *rest]
    return {
        "a": pack(np.array([number[a] for a, _ in ordered]), "u2"),
        "b": pack(np.array([number[b] for _, b in ordered]), "u2"),
        "matches": pack(np.array([run.counts[pair][0] for pair in ordered]), "u4"),
        "inliers": pack(np.array([run.counts[pair][1] for pair in ordered]), "u4"),
        **_pack_drawn(drawn),
    }


def _choose(ranked: Sequence[Pair], run: RunFiles) -> list[Pair]:
    verified = [pair for pair in ranked if run.counts[pair][1] > 0]
    failed = [pair for pair in ranked if run.counts[pair][1] == 0]
    num_failed = min(len(failed), max(MAX_FAILED, MAX_DRAWN_PAIRS - len(verified)))
    return [*verified[: MAX_DRAWN_PAIRS - num_failed], *failed[:num_failed]]


def _draw(
    pair: Pair,
    matches: Matches,
    is_inlier: Bool[np.ndarray, " match"],
    sizes: Mapping[str, tuple[int, int]],
    keypoints: Mapping[str, Keypoints],
    quota: int,
    finder: DroppedMatches | None,
) -> _Drawn:
    a, b = keypoints[pair[0]], keypoints[pair[1]]
    limits = np.array([len(a), len(b)])
    fits = (matches.index.numpy() < limits).all(axis=1)  # of a database of other features
    if not fits.all():
        matches, is_inlier = matches[torch.from_numpy(fits)], is_inlier[fits]
    rotation = match_rotations(matches, a.angle, b.angle).numpy()
    modes = rotation_modes(matches, a.angle, b.angle)
    dropped = None if finder is None else finder.rotations(pair, matches)
    known = np.zeros(0) if dropped is None else dropped
    kinds = [_histogram(part) for part in (rotation[is_inlier], rotation[~is_inlier], known)]
    rows = _spread(is_inlier, quota)
    index = matches.index.numpy()[rows]
    ends = [
        (points.xy.double().numpy()[index[:, side]] + 0.5) / sizes[pair[side]]
        for side, points in enumerate((a, b))
    ]
    return _Drawn(
        np.concatenate(ends, axis=1),
        rotation[rows],
        is_inlier[rows],
        np.stack(kinds),
        modes[0].angle if modes else None,
        None if dropped is None else len(dropped),
    )


def _histogram(rotation: Float64[np.ndarray, " match"]) -> Int64[np.ndarray, " bin"]:
    bins = np.minimum((rotation * (BINS / TWO_PI)).astype(np.int64), BINS - 1)
    return np.bincount(bins, minlength=BINS)


def _spread(is_inlier: Bool[np.ndarray, " match"], quota: int) -> Int64[np.ndarray, " drawn"]:
    """Return at most ``quota`` rows, spread evenly, inliers in their true proportion."""
    if len(is_inlier) <= quota:
        return np.arange(len(is_inlier))
    good, bad = np.flatnonzero(is_inlier), np.flatnonzero(~is_inlier)
    num_good = round(quota * len(good) / len(is_inlier))
    parts = [
        rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]
        for rows, count in ((good, num_good), (bad, quota - num_good))
        if count
    ]
    return np.sort(np.concatenate(parts))


def _pack_drawn(drawn: Sequence[_Drawn]) -> dict[str, Any]:
    ends = np.concatenate([np.zeros((0, 4)), *(pair.ends for pair in drawn)])
    rotation = np.concatenate([np.zeros(0), *(pair.rotation for pair in drawn)])
    is_inlier = np.concatenate([np.zeros(0, bool), *(pair.is_inlier for pair in drawn)])
    histogram = np.array([pair.histogram for pair in drawn], np.int64).reshape(-1, KINDS * BINS)
    highest = histogram.max(axis=1, initial=1, keepdims=True)
    modes = [NO_MODE if pair.mode is None else pair.mode / TWO_PI * (NO_MODE - 1) for pair in drawn]
    return {
        "numDrawn": len(drawn),
        "drawn": pack(np.array([len(pair.is_inlier) for pair in drawn]), "u2"),
        "knowsDropped": any(pair.num_dropped is not None for pair in drawn),
        "dropped": pack(np.array([_code_of(pair.num_dropped) for pair in drawn]), "u4"),
        "mode": pack(np.round(np.array(modes)), "u2"),
        "bins": BINS,
        "kinds": KINDS,
        "highest": pack(highest, "u4"),
        "histogram": pack_share(histogram / highest, "u1"),
        "ends": pack_share(ends, "u2"),
        "rotation": pack_share(rotation / (2 * math.pi), "u1"),
        "inlier": pack(is_inlier, "u1"),
    }


def _code_of(num_dropped: int | None) -> int:
    return NOT_COUNTED if num_dropped is None else num_dropped
