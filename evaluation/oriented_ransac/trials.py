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
from evaluation.oriented_ransac.consensus_loop import ConsensusOptions, Estimate
from evaluation.oriented_ransac.oriented_constraints import has_right_signs, oriented_residual
from evaluation.oriented_ransac.sample_consensus import estimate_model
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
        """Return the true F in pixels."""
        rotation, translation = self.pose
        essential = cross_matrix(translation) @ rotation
        return np.asarray(np.linalg.inv(self.K_b).T @ essential @ np.linalg.inv(self.K_a))


def pair_key(name: str, numbers: Iterable[bytes]) -> str:
    """Return a name with a hash of numbers: a pair with other matches has other trials."""
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
        """Return the metrics of a trial, computed now if they are not there."""
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
) -> Metrics:
    """Say whether a synthetic model was found within each budget of seconds.

    Args:
        kind: ``homography``, ``fundamental`` or ``essential``.
        sampling: a name of :mod:`evaluation.oriented_ransac.samplers`.
        share: of right matches.
        seed: of the scene and of the samples.
        budgets: seconds of CPU time, ascending.
        num_matches: right and wrong ones.
    """
    rng = np.random.default_rng(seed)
    is_planar = kind == "homography"
    scene = make_scene(rng, num_matches, share, noise=Noise(), is_planar=is_planar)
    estimate = estimate_model(
        kind, scene.correspondences, rng, intrinsics=(scene.K, scene.K), sampling=sampling,
        options=timed_options(SYNTHETIC_THRESHOLD_PX, budgets),
    )  # fmt: skip
    models = models_within(estimate, budgets)
    is_right = [model is not None and _explains(kind, scene, model) for model in models]
    return {"found": is_right, **effort(estimate)}


def pose_trial(
    pair: PosedPair,
    kind: str,
    sampling: str,
    seed: int,
    budgets: Sequence[float],
    threshold_px: float,
) -> Metrics:
    """Pose errors in degrees of the models found within each budget; inf where there is none."""
    options = timed_options(threshold_px, budgets)
    estimate = _estimate_pair(pair, kind, sampling, seed, options)
    errors = [
        _pose_error(pair, kind, model, threshold_px) for model in models_within(estimate, budgets)
    ]
    return {"errors_deg": errors, **effort(estimate)}


def adaptive_trial(
    pair: PosedPair, kind: str, sampling: str, seed: int, max_seconds: float, threshold_px: float
) -> Metrics:
    """Pose error and effort where the share of inliers ends the sampling, as in ordinary use."""
    options = ConsensusOptions(threshold_px, max_seconds=max_seconds, max_samples=10**9)
    estimate = _estimate_pair(pair, kind, sampling, seed, options)
    error = _pose_error(pair, kind, estimate.model, threshold_px)
    return {"error_deg": error, **effort(estimate)}


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


def timed_options(threshold_px: float, budgets: Sequence[float]) -> ConsensusOptions:
    """Sampling that only the largest budget ends."""
    return ConsensusOptions(
        threshold_px, max_seconds=budgets[-1], max_samples=10**9, is_adaptive=False
    )


def models_within(estimate: Estimate, budgets: Sequence[float]) -> list[Matrix | None]:
    """The last model that was there within each budget of seconds; None where there was none."""
    return [
        next((step.model for step in reversed(estimate.history) if step.seconds <= budget), None)
        for budget in budgets
    ]


def effort(estimate: Estimate) -> Mapping[str, float]:
    """Return the samples and seconds that an estimate took."""
    return {"num_samples": estimate.num_samples, "seconds": estimate.seconds}


def _estimate_pair(
    pair: PosedPair, kind: str, sampling: str, seed: int, options: ConsensusOptions
) -> Estimate:
    rng, K = np.random.default_rng(seed), (pair.K_a, pair.K_b)
    return estimate_model(kind, pair.c, rng, intrinsics=K, sampling=sampling, options=options)


def _explains(kind: str, scene: Scene, model: Matrix) -> bool:
    if kind == "essential":
        inverse = np.linalg.inv(scene.K)
        model = inverse.T @ model @ inverse
    inliers = _inliers(kind, scene.correspondences, model, SYNTHETIC_THRESHOLD_PX)
    return bool(inliers[scene.is_inlier].mean() > FOUND)


def _inliers(
    kind: str, c: Correspondences, model: Matrix, threshold_px: float
) -> Bool[np.ndarray, " match"]:
    """Return matches within the threshold of an H, or of an F in pixels."""
    problem = homography_model(c) if kind == "homography" else epipolar_model(c)
    return np.asarray(problem.squared_errors(model[None])[0] < threshold_px**2)


def _pose_error(pair: PosedPair, kind: str, model: Matrix | None, threshold_px: float) -> float:
    pose = None if model is None else _pose(pair, kind, model, threshold_px)
    return pose_error_deg(pose, pair.pose)


def _pose(pair: PosedPair, kind: str, model: Matrix, threshold_px: float) -> Pose | None:
    inverse_a, inverse_b = np.linalg.inv(pair.K_a), np.linalg.inv(pair.K_b)
    fundamental = inverse_b.T @ model @ inverse_a if kind == "essential" else model
    inliers = np.nonzero(_inliers("fundamental", pair.c, fundamental, threshold_px))[0]
    chosen = pair.c[inliers]
    if kind == "fundamental":
        return pose_from_fundamental(model, chosen.xy_a, chosen.xy_b, pair.K_a, pair.K_b)
    rays = chosen.moved(inverse_a, inverse_b)
    return pose_from_essential(model, rays.xy_a, rays.xy_b)


def _read_line(line: str) -> tuple[str, Metrics] | None:
    """Return a finished trial; None for a line that a killed run left half written."""
    try:
        key, metrics = json.loads(line)
    except ValueError:
        return None
    return str(key), dict(metrics)
