"""Metrics of one hloc run: its matches, what a filter did to them, and the model they gave."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rekd_hloc.sfm.alignment import Pose, align_to_reference
from rekd_hloc.sfm.pycolmap_compat import has_geometry

Matches = set[tuple[int, int]]
TRUSTED_INLIERS = 100
"""A geometry with fewer may be chance: the best of 20,000 draws from 500 wrong matches has 30 to 60
inliers (seen on pairs where two seeds share few of them)."""


@dataclass(frozen=True)
class MatchSets:
    """Matches of each pair of image ids before verification, and those that it kept."""

    matches: dict[tuple[int, int], Matches]
    inliers: dict[tuple[int, int], Matches]


@dataclass(frozen=True)
class MatchMetrics:
    """Totals over all pairs."""

    num_matches: int
    num_inliers: int
    inlier_ratio: float
    num_pairs: int
    """Pairs with a verified geometry."""


@dataclass(frozen=True)
class FilterMetrics:
    """What a filter did, with the inliers of the unfiltered matches as the truth.

    Only pairs that have at least 100 of them are judged.
    """

    kept_inliers: float
    removed_wrong: float
    num_pairs: int


@dataclass(frozen=True)
class ModelMetrics:
    """The largest model; values are None where there is none."""

    registered: int = 0
    num_points: int = 0
    num_observations: int = 0
    reprojection_px: float | None = None
    noise_px: float | None = None
    """Robust standard deviation of one coordinate of an observation."""
    rotation_deg: float | None = None
    """Median over the registered images of the error against the true pose."""
    center_rel: float | None = None
    """Median, as a share of the reference's extent."""


def read_match_sets(database: Any) -> MatchSets:
    """Read matches and inliers of each pair from an open, verified database."""
    ids = sorted(image.image_id for image in database.read_all_images())
    matches: dict[tuple[int, int], Matches] = {}
    inliers: dict[tuple[int, int], Matches] = {}
    for position, a in enumerate(ids):
        for b in ids[position + 1 :]:
            if database.exists_matches(a, b):
                matches[a, b] = _as_set(database.read_matches(a, b))
            if has_geometry(database, a, b):
                inliers[a, b] = _as_set(database.read_two_view_geometry(a, b).inlier_matches)
    return MatchSets(matches, inliers)


def describe_matches(sets: MatchSets) -> MatchMetrics:
    """Count matches and inliers over all pairs."""
    num_matches = sum(map(len, sets.matches.values()))
    num_inliers = sum(map(len, sets.inliers.values()))
    verified = sum(len(inliers) > 0 for inliers in sets.inliers.values())
    return MatchMetrics(num_matches, num_inliers, num_inliers / max(num_matches, 1), verified)


def compare_filter(unfiltered: MatchSets, filtered: MatchSets) -> FilterMetrics | None:
    """Measure how many right matches a filter kept, and how many wrong ones it removed.

    Returns:
        None if no pair can be judged.
    """
    judged = [p for p, inliers in unfiltered.inliers.items() if len(inliers) >= TRUSTED_INLIERS]
    kept = right = removed = wrong = 0
    for pair in judged:
        inliers, left = unfiltered.inliers[pair], filtered.matches.get(pair, set())
        outliers = unfiltered.matches[pair] - inliers
        right, kept = right + len(inliers), kept + len(inliers & left)
        wrong, removed = wrong + len(outliers), removed + len(outliers - left)
    return FilterMetrics(kept / right, removed / max(wrong, 1), len(judged)) if judged else None


def describe_model(model: Any, reference: Mapping[str, Pose]) -> ModelMetrics:
    """Return counts and errors of a ``pycolmap.Reconstruction``, or of None."""
    if model is None:
        return ModelMetrics()
    rotation, center = None, None
    try:
        errors = align_to_reference(model, reference)
    except ValueError:  # too few images to align
        pass
    else:
        rotation = float(np.median(errors.rotation_deg))
        center = float(np.median(errors.center_rel))
    return ModelMetrics(
        registered=model.num_reg_images(),
        num_points=model.num_points3D(),
        num_observations=model.compute_num_observations(),
        reprojection_px=model.compute_mean_reprojection_error(),
        noise_px=_estimate_noise(model),
        rotation_deg=rotation,
        center_rel=center,
    )


def _estimate_noise(model: Any) -> float | None:
    """From the median residual: a residual's length is Rayleigh distributed (median 1.177 sigma).

    Bundle adjustment takes 3 degrees of freedom a point and about 8 an image from the residuals.
    """
    residuals = []
    for point in model.points3D.values():
        for element in point.track.elements:
            image = model.images[element.image_id]
            projected = image.project_point(point.xyz)
            if projected is not None:
                residuals.append(np.linalg.norm(projected - image.points2D[element.point2D_idx].xy))
    free = 2 * len(residuals) - 3 * model.num_points3D() - 8 * model.num_reg_images()
    if free <= 0:
        return None
    sigma = float(np.median(residuals)) / np.sqrt(2 * np.log(2))
    return float(sigma * np.sqrt(2 * len(residuals) / free))


def _as_set(index: Any) -> Matches:
    return {(int(a), int(b)) for a, b in index}
