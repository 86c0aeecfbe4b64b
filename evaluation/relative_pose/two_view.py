"""Relative pose of two calibrated images from matched points, by a robust estimator of a name."""

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

import cv2
import numpy as np

from evaluation.relative_pose.epipolar import Matrix, Points
from evaluation.relative_pose.estimators import (
    PACKAGES,
    PUBLISHED_ESTIMATORS,
    Task,
    TwoView,
    import_package,
)

Estimator = Callable[[Task], TwoView | None]

ESTIMATORS: dict[str, Estimator] = dict(PUBLISHED_ESTIMATORS)
"""By name: other people's, and those that :func:`register_estimators` added."""
NEED_ANGLES: set[str] = set()
"""Those that features without orientation cannot be used with."""
REGISTERING_MODULES: list[str] = []
"""Modules that add estimators when they are imported; another process must import them too."""

DEFAULT_ESTIMATOR = "degensac"
DEFAULT_THRESHOLD_PX = {
    "degensac": 0.5,
    "magsac": 1.0,
    "essential": 1.0,
    "essential-colmap": 1.0,
    "essential-magsac": 1.0,
}
"""Official for DEGENSAC with SIFT-like keypoints; 1 px for estimators that were added."""
MIN_FUNDAMENTAL = 8
"""The official code estimates nothing from fewer matches."""
MIN_ESSENTIAL = 6
"""One more than the minimal sample, without which nothing tells right from wrong."""


@dataclass(frozen=True)
class RansacOptions:
    """What a robust estimator is run with."""

    estimator: str = DEFAULT_ESTIMATOR
    """One of ``ESTIMATORS``."""
    threshold_px: float = 0.5
    """Largest distance of an inlier from its epipolar line in pixels (official, SIFT-like: 0.5)."""
    confidence: float = 0.999999
    """Of having drawn one good sample (official: 0.999999)."""
    max_iterations: int = 100_000
    """Most samples (official: 100,000)."""

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"no estimator {self.estimator!r}; there are {', '.join(ESTIMATORS)}")
        if not self.threshold_px > 0:
            raise ValueError(f"threshold_px must be above 0, got {self.threshold_px}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must be between 0 and 1, got {self.confidence}")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1, got {self.max_iterations}")


def register_estimators(
    estimators: Mapping[str, Estimator], *, need_angles: Collection[str], module: str
) -> None:
    """Add robust estimators, to be called by a module when it is imported.

    Args:
        estimators: by name; each gives the pose of a task, or None where it finds none.
        need_angles: names of those that look at the matched features' angles.
        module: name of the calling module.

    Raises:
        ValueError: a name is taken.
    """
    taken = sorted(set(estimators) & set(ESTIMATORS))
    if taken:
        raise ValueError(f"estimator {taken[0]!r} is there already; choose another name")
    ESTIMATORS.update(estimators)
    DEFAULT_THRESHOLD_PX.update(dict.fromkeys(estimators, 1.0))
    NEED_ANGLES.update(need_angles)
    REGISTERING_MODULES.append(module)


def import_registering_modules(modules: Sequence[str]) -> None:
    """Have the estimators of these modules here, in a process that was started anew."""
    for module in modules:
        importlib.import_module(module)


def refuse_without_angles(estimator: str, features: str) -> None:
    """To be called for features without angles.

    Args:
        estimator: any name of an estimator.
        features: what the message calls them, in the plural.

    Raises:
        ValueError: the estimator needs angles.
    """
    if estimator in NEED_ANGLES:
        kind = estimator.split("-")[0]
        raise ValueError(
            f"{estimator} needs angles, and {features} have none; take others, or the estimator "
            f"{kind}-points"
        )


def estimate_pose(
    xy_a: Points,
    xy_b: Points,
    K_a: Matrix,
    K_b: Matrix,
    options: RansacOptions,
    seed: int,
    *,
    steps: tuple[Points, Points] | None = None,
) -> TwoView:
    """Relative pose of two images.

    Args:
        xy_a: matched points in pixels of image a.
        xy_b: the same points in image b.
        K_a: intrinsics of image a, in the frame of its points; skew is allowed.
        K_b: intrinsics of image b.
        options: estimator, threshold and limits.
        seed: of the samples, not negative; equal seeds give equal results.
        steps: of the matched features in a and in b: the direction of the angle, as long as the
            scale; only the estimators of ``NEED_ANGLES`` look at them.

    Raises:
        ValueError: the points are not as many, the seed is negative, or steps are needed.
        ImportError: the estimator's package is not installed; the message says what to run.
    """
    if xy_a.shape != xy_b.shape:
        raise ValueError(f"xy_a and xy_b must match, got {xy_a.shape} and {xy_b.shape}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    failed = TwoView(None, np.zeros(len(xy_a), dtype=bool))
    if len(xy_a) < (MIN_ESSENTIAL if "essential" in options.estimator else MIN_FUNDAMENTAL):
        return failed
    task = Task(
        np.ascontiguousarray(xy_a, dtype=np.float64), np.ascontiguousarray(xy_b, dtype=np.float64),
        K_a, K_b,
        options.threshold_px, options.confidence, options.max_iterations, seed, steps,
    )  # fmt: skip
    return ESTIMATORS[options.estimator](task) or failed


def require(estimator: str) -> None:
    """Refuse an estimator whose package is not installed, before hours of work for it.

    Raises:
        ImportError: it is not; the message says what to run.
    """
    if estimator in PACKAGES:
        import_package(PACKAGES[estimator])


def versions(estimator: str) -> dict[str, str]:
    """What an estimator's result depends on besides its options."""
    package = {**PACKAGES, "essential-colmap": "pycolmap"}.get(estimator)
    return {package: _version(package)} if package else {"opencv": cv2.__version__}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
