"""Single trials of the study of samplings: one estimation, and what it had found by when.

A trial runs for a fixed CPU time; its history says what a shorter one would have given. The
same budget is thus the same for every sampling, whatever its samples cost.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from evaluation.metrics.pose import pose_error_deg
from evaluation.oriented_ransac.oriented_constraints import has_right_signs, oriented_residual
from evaluation.oriented_ransac.sample_consensus import (
    ConsensusOptions,
    Estimate,
    estimate_essential,
    estimate_fundamental,
    estimate_homography,
)
from evaluation.oriented_ransac.samplers import SIGN_TOLERANCE_DEG
from evaluation.oriented_ransac.scenes import Noise, Scene, cross_matrix, make_scene
from evaluation.oriented_ransac.two_view_models import epipolar_model, homography_model
from evaluation.relative_pose.correspondences import Correspondences, Matrix
from evaluation.relative_pose.two_view import pose_from_essential, pose_from_fundamental

Metrics = dict[str, Any]
Pose = tuple[Matrix, Float64[np.ndarray, " 3"]]

FOUND = 0.8
"""Share of the true matches that a model must explain to count as found."""
SYNTHETIC_THRESHOLD_PX = 2.0
"""About three times the noise of a coordinate."""


@dataclass(frozen=True, eq=False)
class PosedPair:
    """Matches of two calibrated images with their true pose."""

    name: str
    c: Correspondences
    K_a: Matrix
    K_b: Matrix
    pose: Pose

    @cached_property
    def key(self) -> str:
        """Name of the pair with a hash of what trials depend on."""
        numbers = [self.c.tobytes(), *(part.tobytes() for part in (self.K_a, self.K_b, *self.pose))]
        return pair_key(self.name, numbers)

    @property
    def fundamental(self) -> Matrix:
        """The true F in pixels."""
        rotation, translation = self.pose
        essential = cross_matrix(translation) @ rotation
        return np.asarray(np.linalg.inv(self.K_b).T @ essential @ np.linalg.inv(self.K_a))


def pair_key(name: str, numbers: Iterable[bytes]) -> str:
    """A name with a hash of numbers: a pair with other matches has other trials."""
    return f"{name}@{hashlib.sha256(b''.join(numbers)).hexdigest()[:12]}"


class TrialLog:
    """Finished trials by key, one JSON line each: what an interrupted run had done is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, Metrics] = {}
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            self.known = dict(entry for line in lines if (entry := _read_line(line)) is not None)

    def get(self, key: str, compute: Callable[[], Metrics]) -> Metrics:
        """The metrics of a trial, computed now if they are not there."""
        if key not in self.known:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            metrics = compute()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, metrics]) + "\n")
            self.known[key] = metrics
        return self.known[key]


def synthetic_trial(
    kind: str,
    sampling: str,
    share: float,
    seed: int,
    budgets: Sequence[float],
    *,
    num_matches: int = 1000,
    noise: Noise | None = None,
) -> Metrics:
    """Whether a synthetic model was found within each budget of seconds.

    Args:
        kind: ``homography``, ``fundamental`` or ``essential``.
        sampling: a name of :mod:`evaluation.oriented_ransac.samplers`.
        share: of right matches.
        seed: of the scene and of the samples.
        budgets: seconds of CPU time, ascending.
        num_matches: right and wrong ones.
        noise: of the features; None for that of a scale-quantised detector.
    """
    rng = np.random.default_rng(seed)
    is_planar = kind == "homography"
    scene = make_scene(rng, num_matches, share, noise=noise or Noise(), is_planar=is_planar)
    options = ConsensusOptions(
        SYNTHETIC_THRESHOLD_PX, max_seconds=budgets[-1], max_samples=10**9, is_adaptive=False
    )
    estimate = _estimate(kind, scene.correspondences, scene.K, scene.K, rng, sampling, options)
    is_right = [_explains(kind, scene, model.model) for model in estimate.history]
    times = [model.seconds for model in estimate.history]
    last = [last_within(times, is_right, budget) for budget in budgets]
    return {"found": [bool(value) for value in last], **_effort(estimate)}


def pose_trial(
    pair: PosedPair,
    kind: str,
    sampling: str,
    seed: int,
    budgets: Sequence[float],
    threshold_px: float,
) -> Metrics:
    """Pose errors in degrees of the models found within each budget; inf where there is none."""
    rng = np.random.default_rng(seed)
    options = ConsensusOptions(
        threshold_px, max_seconds=budgets[-1], max_samples=10**9, is_adaptive=False
    )
    estimate = _estimate(kind, pair.c, pair.K_a, pair.K_b, rng, sampling, options)
    times = [step.seconds for step in estimate.history]
    errors = []
    for budget in budgets:
        model = last_within(times, [step.model for step in estimate.history], budget)
        pose = None if model is None else _pose(pair, kind, model, threshold_px)
        errors.append(pose_error_deg(pose, pair.pose))
    return {"errors_deg": errors, **_effort(estimate)}


def adaptive_trial(
    pair: PosedPair, kind: str, sampling: str, seed: int, max_seconds: float, threshold_px: float
) -> Metrics:
    """Pose error and effort where the share of inliers ends the sampling, as in ordinary use."""
    rng = np.random.default_rng(seed)
    options = ConsensusOptions(threshold_px, max_seconds=max_seconds, max_samples=10**9)
    estimate = _estimate(kind, pair.c, pair.K_a, pair.K_b, rng, sampling, options)
    pose = None if estimate.model is None else _pose(pair, kind, estimate.model, threshold_px)
    return {"error_deg": pose_error_deg(pose, pair.pose), **_effort(estimate)}


def feature_metrics(pair: PosedPair, threshold_px: float) -> Metrics:
    """What the true pose says of the matches: how many are right, and how well they obey angles."""
    is_right = _inliers("fundamental", pair.c, pair.fundamental, threshold_px)
    right = pair.c[np.nonzero(is_right)[0]]
    signs = has_right_signs(pair.fundamental[None], pair.c, SIGN_TOLERANCE_DEG)[0]
    residual = abs(oriented_residual(pair.fundamental, right))
    return {
        "num_matches": len(pair.c),
        "right": float(is_right.mean()) if len(pair.c) else float("nan"),
        "signs_of_right": float(signs[is_right].mean()) if len(right) else float("nan"),
        "signs_of_wrong": float(signs[~is_right].mean()) if (~is_right).any() else float("nan"),
        "residual_median": float(np.median(residual)) if len(right) else float("nan"),
    }


def last_within(times: Sequence[float], values: Sequence[Any], budget: float) -> Any:
    """The last value that was there within the budget."""
    known = [value for time, value in zip(times, values, strict=True) if time <= budget]
    return known[-1] if known else None


def _estimate(
    kind: str, c: Correspondences, K_a: Matrix, K_b: Matrix, rng: np.random.Generator,
    sampling: str, options: ConsensusOptions,
) -> Estimate:  # fmt: skip
    if kind == "essential":
        return estimate_essential(c, K_a, K_b, rng, sampling=sampling, options=options)
    estimate = {"homography": estimate_homography, "fundamental": estimate_fundamental}[kind]
    return estimate(c, rng, sampling=sampling, options=options)


def _explains(kind: str, scene: Scene, model: Matrix) -> bool:
    if kind == "essential":
        inverse = np.linalg.inv(scene.K)
        model = inverse.T @ model @ inverse
    inliers = _inliers(kind, scene.correspondences, model, SYNTHETIC_THRESHOLD_PX)
    return bool(inliers[scene.is_inlier].mean() > FOUND)


def _inliers(
    kind: str, c: Correspondences, model: Matrix, threshold_px: float
) -> Bool[np.ndarray, " match"]:
    """Matches within the threshold of an H, or of an F in pixels."""
    problem = homography_model(c) if kind == "homography" else epipolar_model(c)
    return np.asarray(problem.squared_errors(model[None])[0] < threshold_px**2)


def _pose(pair: PosedPair, kind: str, model: Matrix, threshold_px: float) -> Pose | None:
    inverse_a, inverse_b = np.linalg.inv(pair.K_a), np.linalg.inv(pair.K_b)
    fundamental = inverse_b.T @ model @ inverse_a if kind == "essential" else model
    inliers = np.nonzero(_inliers("fundamental", pair.c, fundamental, threshold_px))[0]
    chosen = pair.c[inliers]
    if kind == "fundamental":
        return pose_from_fundamental(model, chosen.xy_a, chosen.xy_b, pair.K_a, pair.K_b)
    rays = chosen.moved(inverse_a, inverse_b)
    return pose_from_essential(model, rays.xy_a, rays.xy_b)


def _effort(estimate: Estimate) -> Mapping[str, float]:
    return {"num_samples": estimate.num_samples, "seconds": estimate.seconds}


def _read_line(line: str) -> tuple[str, Metrics] | None:
    """A finished trial; None for a line that a killed run left half written."""
    try:
        key, metrics = json.loads(line)
    except ValueError:
        return None
    return str(key), dict(metrics)
