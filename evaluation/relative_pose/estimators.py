"""Robust estimators of two-view geometry by name, and the pose that they give.

DEGENSAC (Chum et al., 2005; pydegensac) and MAGSAC++ (Barath et al., 2020; OpenCV's USAC) estimate
a fundamental matrix from pixels. ``essential*`` estimate an essential matrix from known intrinsics:
LO-RANSAC of PoseLib (Larsson) or of COLMAP, or OpenCV's MAGSAC++. Other modules add theirs by
:func:`register_estimators`.
"""

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import cv2
import numpy as np

from evaluation.relative_pose.two_view import (
    Matrix,
    Points,
    Task,
    TwoView,
    focal_of,
    normalise,
    pose_from_essential,
    pose_from_fundamental,
)

Estimator = Callable[[Task], TwoView | None]

ESTIMATORS: dict[str, Estimator] = {}
"""By name: other people's, and those that :func:`register_estimators` added."""
NEED_ANGLES: set[str] = set()
"""Those that features without orientation cannot be used with."""
REGISTERING_MODULES: list[str] = []
"""Modules that add estimators when they are imported; another process must import them too."""
PACKAGES = {"degensac": "pydegensac", "essential": "poselib"}
"""Optional packages, by estimator."""

DEFAULT_ESTIMATOR = "degensac"
DEGENSAC_THRESHOLD_PX = 0.5
"""Official for DEGENSAC with SIFT-like keypoints."""
DEFAULT_THRESHOLD_PX = 1.0
"""Of all other estimators."""
MIN_FUNDAMENTAL = 8
"""The official code estimates nothing from fewer matches."""
MIN_ESSENTIAL = 6
"""One more than the minimal sample, without which nothing tells right from wrong."""


@dataclass(frozen=True)
class RansacOptions:
    """How a robust estimator is run."""

    estimator: str = DEFAULT_ESTIMATOR
    """One of ``ESTIMATORS``."""
    threshold_px: float = DEGENSAC_THRESHOLD_PX
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
    """Add robust estimators; a module calls this when it is imported.

    Args:
        estimators: by name; each gives the pose of a task, or None where it finds none.
        need_angles: names of those that look at the matched features' angles.
        module: name of the calling module.
    """
    taken = sorted(set(estimators) & set(ESTIMATORS))
    if taken:
        raise ValueError(f"estimator {taken[0]!r} exists already; choose another name")
    ESTIMATORS.update(estimators)
    NEED_ANGLES.update(need_angles)
    REGISTERING_MODULES.append(module)


def import_registering_modules(modules: Sequence[str]) -> None:
    """Import modules that add estimators, in a process that was started anew."""
    for module in modules:
        importlib.import_module(module)


def refuse_without_angles(estimator: str, features: str) -> None:
    """Raise a ValueError if an estimator needs angles; ``features``, in the plural, have none."""
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
    orientations: tuple[Points, Points] | None = None,
) -> TwoView:
    """Estimate the relative pose of two images.

    Args:
        xy_a: matched points in pixels of image a; ``xy_b`` are the same points in image b.
        xy_b: see ``xy_a``.
        K_a: intrinsics of image a, in the frame of its points; skew is allowed.
        K_b: intrinsics of image b.
        options: estimator, threshold and limits.
        seed: of the samples, not negative; equal seeds give equal results.
        orientations: orientation vectors of the matched features in a and in b; only the
            estimators of ``NEED_ANGLES`` look at them.

    Raises:
        ValueError: the points are not as many, the seed is negative, or orientations are needed.
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
        options.threshold_px, options.confidence, options.max_iterations, seed, orientations,
    )  # fmt: skip
    return ESTIMATORS[options.estimator](task) or failed


def require(estimator: str) -> None:
    """Refuse an estimator whose package is not installed, before hours of work.

    Raises:
        ImportError: it is not; the message says what to run.
    """
    if estimator in PACKAGES:
        _import_package(PACKAGES[estimator])


def versions(estimator: str) -> dict[str, str]:
    """Return the version of the package that an estimator's result depends on."""
    package = {**PACKAGES, "essential-colmap": "pycolmap"}.get(estimator)
    return {package: _version(package)} if package else {"opencv": cv2.__version__}


def default_threshold(estimator: str) -> float:
    """Return the usual threshold of an estimator in pixels."""
    return DEGENSAC_THRESHOLD_PX if estimator == "degensac" else DEFAULT_THRESHOLD_PX


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _import_package(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"this estimator needs {package}: pip install {package}, or take --estimator magsac"
        ) from error


def _from_fundamental(task: Task, fundamental: Any, mask: Any) -> TwoView | None:
    if fundamental is None or mask is None or np.shape(fundamental) != (3, 3):
        return None
    inliers = np.asarray(mask).reshape(-1).astype(bool)
    matrix = np.asarray(fundamental, dtype=np.float64)
    pose = pose_from_fundamental(matrix, task.xy_a[inliers], task.xy_b[inliers], task.K_a, task.K_b)
    return TwoView(pose, inliers, matrix)


def _degensac(task: Task) -> TwoView | None:
    find = _import_package("pydegensac").findFundamentalMatrix
    fundamental, mask = find(
        task.xy_a, task.xy_b, px_th=task.threshold_px, conf=task.confidence,
        max_iters=task.max_iterations, seed=task.seed,
    )  # fmt: skip
    return _from_fundamental(task, fundamental, mask)


def _magsac(task: Task) -> TwoView | None:
    params = _usac_params(task, task.threshold_px)
    try:
        fundamental, mask = cv2.findFundamentalMat(task.xy_a, task.xy_b, params)
    except cv2.error:  # it raises where all samples are degenerate
        return None
    return _from_fundamental(task, fundamental, mask)


def _usac_params(task: Task, threshold: float) -> Any:
    """Return the parameters that OpenCV's USAC_MAGSAC stands for, with a seed."""
    params = cv2.UsacParams()
    params.threshold = threshold
    params.confidence = task.confidence
    params.maxIterations = task.max_iterations
    params.randomGeneratorState = task.seed
    params.score = cv2.SCORE_METHOD_MAGSAC
    params.loMethod = cv2.LOCAL_OPTIM_SIGMA
    params.final_polisher = cv2.MAGSAC
    return params


def _essential_magsac(task: Task) -> TwoView | None:
    rays_a, rays_b = normalise(task.xy_a, task.K_a), normalise(task.xy_b, task.K_b)
    focal = (focal_of(task.K_a) + focal_of(task.K_b)) / 2
    params = _usac_params(task, task.threshold_px / focal)
    eye = np.eye(3)
    try:
        essential, mask = cv2.findEssentialMat(rays_a, rays_b, eye, eye, None, None, params)
    except cv2.error:
        return None
    if essential is None or essential.shape != (3, 3):
        return None
    inliers = mask.reshape(-1).astype(bool)
    return TwoView(pose_from_essential(essential, rays_a[inliers], rays_b[inliers]), inliers)


def _essential_poselib(task: Task) -> TwoView | None:
    poselib = _import_package("poselib")
    points, cameras = [], []
    for xy, intrinsics in ((task.xy_a, task.K_a), (task.xy_b, task.K_b)):
        focal = focal_of(intrinsics)
        points.append(normalise(xy, intrinsics) * focal)
        cameras.append(
            {"model": "SIMPLE_PINHOLE", "width": 1, "height": 1, "params": [focal, 0.0, 0.0]}
        )
    ransac = {
        "max_epipolar_error": task.threshold_px, "success_prob": task.confidence,
        "max_iterations": task.max_iterations, "seed": task.seed,
    }  # fmt: skip
    pose, details = poselib.estimate_relative_pose(*points, *cameras, ransac, {})
    inliers = np.asarray(details["inliers"], dtype=bool)
    if not inliers.any():
        return None
    translation = np.asarray(pose.t, dtype=np.float64)
    length = max(float(np.linalg.norm(translation)), 1e-12)  # its own is off 1 by 1e-5
    return TwoView((np.asarray(pose.R), translation / length), inliers)


def _essential_colmap(task: Task) -> TwoView | None:
    import pycolmap

    from rekd_hloc.sfm import pycolmap_compat as compat

    points, cameras = [], []
    for xy, intrinsics in ((task.xy_a, task.K_a), (task.xy_b, task.K_b)):
        focal = focal_of(intrinsics)
        points.append(normalise(xy, intrinsics) * focal)
        cameras.append(compat.make_camera("SIMPLE_PINHOLE", 1, 1, [focal, 0.0, 0.0]))
    defaults = pycolmap.RANSACOptions()
    ransac = compat.set_options(
        defaults, min_num_trials=min(defaults.min_num_trials, task.max_iterations),
        max_error=task.threshold_px, confidence=task.confidence,
        max_num_trials=task.max_iterations, random_seed=task.seed,
    )  # fmt: skip
    estimate: Any = pycolmap.estimate_essential_matrix
    with compat.quiet():
        result = estimate(points[0], points[1], cameras[0], cameras[1], ransac)
    if result is None:
        return None
    motion = result["cam2_from_cam1"]
    rotation = np.asarray(motion.rotation.matrix(), dtype=np.float64)
    return TwoView((rotation, np.asarray(motion.translation)), np.asarray(result["inlier_mask"]))


ESTIMATORS |= {
    "degensac": _degensac,
    "magsac": _magsac,
    "essential": _essential_poselib,
    "essential-colmap": _essential_colmap,
    "essential-magsac": _essential_magsac,
}
