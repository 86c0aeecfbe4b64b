"""Rotations of the matches that a run's filter dropped, which no file of the run holds.

They are found again: mutual nearest neighbours of the run's features, without those that are left.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, Self

import numpy as np
from jaxtyping import Float64

from rekd_hloc.matching.match import FILTERS_OF_NEIGHBOURS
from rekd_hloc.matching.nearest import match_nearest
from rekd_hloc.matching.rotations import match_rotations
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Features, Matches, Pair
from rekd_hloc.viz.run_files import RunFiles, match_codes

MAX_COMPARISONS = 1_200_000_000
"""Of descriptors, for all pairs together: about eight seconds of one core, and 70 pairs of images
with 4,096 keypoints."""
LEAST_KNOWN = 0.98
"""Share of the matches left that must be found again; else they are of other features."""
LEAST_KNOWN_GUIDED = 0.3
"""The same where others were added to those that the filter left."""
IMAGES_HELD = 128


class DroppedMatches:
    """Finds what the filter of a run dropped, pair by pair, as long as the budget lasts."""

    def __init__(
        self, features: FeatureStore, ratio: float, least_known: float = LEAST_KNOWN
    ) -> None:
        self._ratio = ratio
        self._least_known = least_known
        self._comparisons = 0
        self._read = lru_cache(IMAGES_HELD)(features.read)

    @classmethod
    @contextmanager
    def of_run(cls, run: RunFiles) -> Iterator[Self | None]:
        """Give what finds them; None for a run whose matcher was another, or dropped none."""
        path, matching = run.find_store("features"), _matching_of(run.report)
        ratio = _ratio_of(matching)
        if path is None or ratio is None:
            yield None
            return
        least_known = LEAST_KNOWN_GUIDED if matching.get("guided") else LEAST_KNOWN
        with FeatureStore(path) as features:
            yield cls(features, ratio, least_known)

    def rotations(self, pair: Pair, left: Matches) -> Float64[np.ndarray, " match"] | None:
        """Return the rotations of a pair's dropped matches in radians, in [0, 2 pi).

        None where the budget is spent, or the features are not those of the matches.

        Args:
            pair: names of the images.
            left: the matches that the filter has kept.
        """
        if self._comparisons >= MAX_COMPARISONS:
            return None
        with suppress(ValueError):  # features without angles or descriptors, or damaged ones
            a, b = (self._read(name) for name in pair)
            self._comparisons += len(a) * len(b)
            return self._find(a, b, left)
        return None

    def _find(
        self, a: Features, b: Features, left: Matches
    ) -> Float64[np.ndarray, " match"] | None:
        neighbours = match_nearest(a.descriptors, b.descriptors, ratio=self._ratio)
        found, known = (match_codes(matches.index.numpy()) for matches in (neighbours, left))
        is_kept = np.isin(found, known)
        if is_kept.sum() < self._least_known * len(known):
            return None
        rotation = match_rotations(neighbours, a.keypoints.angle, b.keypoints.angle)
        return rotation.numpy()[~is_kept]


def _matching_of(report: Mapping[str, Any]) -> Mapping[str, Any]:
    matching = report.get("configuration", {}).get("matching")
    return matching if isinstance(matching, Mapping) else {}


def _ratio_of(matching: Mapping[str, Any]) -> float | None:
    """Return the ratio test before the filter; None where it did not filter neighbours."""
    if matching.get("filter") not in FILTERS_OF_NEIGHBOURS:
        return None
    ratio = matching.get("ratio")
    return float(ratio) if isinstance(ratio, int | float) and 0 < ratio <= 1 else None
