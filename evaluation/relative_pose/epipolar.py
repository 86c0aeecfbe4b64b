"""The relative pose in a fundamental or essential matrix.

The fundamental matrix F has ``x_b^T F x_a = 0`` in pixels; with intrinsics ``E = K_b^T F K_a``, and
the pose is the one of its four decompositions with most points in front of both cameras
(cheirality; Hartley & Zisserman, 9.6).
"""

import cv2
import numpy as np
from jaxtyping import Float64

Points = Float64[np.ndarray, "match 2"]
Matrix = Float64[np.ndarray, "3 3"]
RelativePose = tuple[Matrix, Float64[np.ndarray, " 3"]]
"""``x_b = rotation @ x_a + translation``, the translation of length 1."""


def pose_from_fundamental(
    fundamental: Matrix, xy_a: Points, xy_b: Points, K_a: Matrix, K_b: Matrix
) -> RelativePose | None:
    """The pose with most of the points in front of both cameras; None if there is none."""
    essential = K_b.T @ fundamental @ K_a
    return pose_from_essential(essential, normalise(xy_a, K_a), normalise(xy_b, K_b))


def pose_from_essential(essential: Matrix, rays_a: Points, rays_b: Points) -> RelativePose | None:
    """The same from E and points in the frames of the cameras."""
    if len(rays_a) == 0 or essential.shape != (3, 3) or not np.isfinite(essential).all():
        return None
    num_front, rotation, translation, _ = cv2.recoverPose(essential, rays_a, rays_b)
    if num_front == 0:
        return None
    return np.asarray(rotation, np.float64), np.asarray(translation, np.float64).reshape(3)


def normalise(xy: Points, intrinsics: Matrix) -> Points:
    """Pixels as points of the plane at depth 1 in the frame of the camera; K may have skew."""
    homogeneous = np.concatenate([xy, np.ones((len(xy), 1))], axis=1)
    rays: Points = np.ascontiguousarray((homogeneous @ np.linalg.inv(intrinsics).T)[:, :2])
    return rays


def focal_of(intrinsics: Matrix) -> float:
    """Focal length in pixels, the geometric mean of both."""
    return float(np.sqrt(abs(np.linalg.det(intrinsics[:2, :2]))))
