"""The relative pose in a fundamental or essential matrix, and what an estimator is given and gives.

The fundamental matrix F has ``x_b^T F x_a = 0`` in pixels; with intrinsics ``E = K_b^T F K_a``, and
the pose is the one of its four decompositions with most points in front of both cameras
(cheirality; Hartley & Zisserman, 9.6).
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float64

from evaluation.metrics.pose import RelativePose

Points = Float64[np.ndarray, "match 2"]
Matrix = Float64[np.ndarray, "3 3"]


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
    orientations: tuple[Points, Points] | None = None
    """For each match the orientation vectors of its features in a and in b: the direction of the
    angle, as long as the scale."""


@dataclass(frozen=True, eq=False)
class TwoView:
    """An estimated relative pose.

    Attributes:
        pose: ``x_b = rotation @ x_a + translation``, the translation of length 1; None where the
            estimation failed.
        inliers: which matches agree with it.
        fundamental: the matrix F itself, where one was estimated.
    """

    pose: RelativePose | None
    inliers: Bool[np.ndarray, " match"]
    fundamental: Matrix | None = None


def pose_from_fundamental(
    fundamental: Matrix, xy_a: Points, xy_b: Points, K_a: Matrix, K_b: Matrix
) -> RelativePose | None:
    """Return the pose with most of the points in front of both cameras; None if there is none."""
    essential = K_b.T @ fundamental @ K_a
    return pose_from_essential(essential, normalise(xy_a, K_a), normalise(xy_b, K_b))


def pose_from_essential(essential: Matrix, rays_a: Points, rays_b: Points) -> RelativePose | None:
    """Return the same from E and points in the frames of the cameras."""
    if len(rays_a) == 0 or essential.shape != (3, 3) or not np.isfinite(essential).all():
        return None
    num_front, rotation, translation, _ = cv2.recoverPose(essential, rays_a, rays_b)
    if num_front == 0:
        return None
    return np.asarray(rotation, np.float64), np.asarray(translation, np.float64).reshape(3)


def epipolar_distance(
    fundamental: Matrix, xy_a: Points, xy_b: Points
) -> Float64[np.ndarray, " match"]:
    """Return the larger of each match's distances from its two epipolar lines, in pixels."""
    ones = np.ones((len(xy_a), 1))
    a, b = np.concatenate([xy_a, ones], axis=1), np.concatenate([xy_b, ones], axis=1)
    lines_b, lines_a = a @ fundamental.T, b @ fundamental
    product = np.abs((b * lines_b).sum(axis=1))
    lengths = [np.linalg.norm(lines[:, :2], axis=1) for lines in (lines_a, lines_b)]
    distance: Float64[np.ndarray, " match"] = product / np.maximum(np.minimum(*lengths), 1e-12)
    return distance


def normalise(xy: Points, intrinsics: Matrix) -> Points:
    """Return pixels as points of the plane at depth 1 of the camera; K may have skew."""
    homogeneous = np.concatenate([xy, np.ones((len(xy), 1))], axis=1)
    rays: Points = np.ascontiguousarray((homogeneous @ np.linalg.inv(intrinsics).T)[:, :2])
    return rays


def focal_of(intrinsics: Matrix) -> float:
    """Return the focal length in pixels, the geometric mean of both."""
    return float(np.sqrt(abs(np.linalg.det(intrinsics[:2, :2]))))
