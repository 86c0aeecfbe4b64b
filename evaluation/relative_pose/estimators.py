"""Robust estimators of two-view geometry, other people's, behind one signature.

DEGENSAC (Chum et al., 2005; pydegensac) and MAGSAC++ (Barath et al., 2020; OpenCV's USAC) estimate
a fundamental matrix from pixels. ``essential*`` estimate an essential matrix from known intrinsics:
LO-RANSAC of PoseLib (Larsson) or of COLMAP, or OpenCV's MAGSAC++.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool

from evaluation.relative_pose.epipolar import (
    Matrix,
    Points,
    RelativePose,
    focal_of,
    normalise,
    pose_from_essential,
    pose_from_fundamental,
)

PACKAGES = {"degensac": "pydegensac", "essential": "poselib"}
"""Optional ones, by estimator."""


@dataclass(frozen=True, eq=False)
class TwoView:
    """An estimated relative pose, ``x_b = rotation @ x_a + translation``.

    Attributes:
        pose: rotation and unit translation; None where the estimation failed.
        inliers: which matches agree with it.
    """

    pose: RelativePose | None
    inliers: Bool[np.ndarray, " match"]


@dataclass(frozen=True, eq=False)
class Task:
    """Matched points in pixels, the intrinsics of their images, and how to estimate."""

    xy_a: Points
    xy_b: Points
    K_a: Matrix
    K_b: Matrix
    threshold_px: float
    confidence: float
    max_iterations: int
    seed: int
    steps: tuple[Points, Points] | None = None
    """For each match the direction of its feature's angle in a and in b, as long as the scale."""


def import_package(package: str) -> Any:
    """An optional package.

    Raises:
        ImportError: it is not installed; the message says what to run.
    """
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
    return TwoView(pose, inliers)


def _degensac(task: Task) -> TwoView | None:
    find = import_package("pydegensac").findFundamentalMatrix
    fundamental, mask = find(
        task.xy_a,
        task.xy_b,
        px_th=task.threshold_px,
        conf=task.confidence,
        max_iters=task.max_iterations,
        seed=task.seed,
    )
    return _from_fundamental(task, fundamental, mask)


def _magsac(task: Task) -> TwoView | None:
    params = _usac_params(task, task.threshold_px)
    try:
        fundamental, mask = cv2.findFundamentalMat(task.xy_a, task.xy_b, params)
    except cv2.error:  # it raises where all samples are degenerate
        return None
    return _from_fundamental(task, fundamental, mask)


def _usac_params(task: Task, threshold: float) -> Any:
    """What OpenCV's USAC_MAGSAC stands for, with a seed."""
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
    poselib = import_package("poselib")
    points, cameras = [], []
    for xy, intrinsics in ((task.xy_a, task.K_a), (task.xy_b, task.K_b)):
        focal = focal_of(intrinsics)
        points.append(normalise(xy, intrinsics) * focal)
        cameras.append(
            {"model": "SIMPLE_PINHOLE", "width": 1, "height": 1, "params": [focal, 0.0, 0.0]}
        )
    ransac = {
        "max_epipolar_error": task.threshold_px,
        "success_prob": task.confidence,
        "max_iterations": task.max_iterations,
        "seed": task.seed,
    }
    pose, found = poselib.estimate_relative_pose(*points, *cameras, ransac, {})
    inliers = np.asarray(found["inliers"], dtype=bool)
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
        defaults,
        min_num_trials=min(defaults.min_num_trials, task.max_iterations),
        max_error=task.threshold_px,
        confidence=task.confidence,
        max_num_trials=task.max_iterations,
        random_seed=task.seed,
    )
    with compat.quiet():
        found: Any = pycolmap.estimate_essential_matrix(
            points[0], points[1], cameras[0], cameras[1], ransac
        )
    if found is None:
        return None
    motion = found["cam2_from_cam1"]
    rotation = np.asarray(motion.rotation.matrix(), dtype=np.float64)
    return TwoView((rotation, np.asarray(motion.translation)), np.asarray(found["inlier_mask"]))


PUBLISHED_ESTIMATORS: dict[str, Callable[[Task], TwoView | None]] = {
    "degensac": _degensac,
    "magsac": _magsac,
    "essential": _essential_poselib,
    "essential-colmap": _essential_colmap,
    "essential-magsac": _essential_magsac,
}
