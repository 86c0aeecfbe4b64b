"""Refine a pose together with unknown intrinsics, and say how sure it is."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rekd_hloc.sfm.pair_motion import rotate_by
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.sfm.query_camera import with_focal

Array = NDArray[np.float64]

MAX_ERROR_PX = 12.0
"""Largest reprojection error of an inlier, as hloc's."""
MIN_INLIERS = 30
"""Fewer do not prove a pose; COLMAP registers no image with fewer."""
ITERATIONS = 20
PRIOR = np.array([0.0] * 7 + [100.0] * 2)
"""Weak pull of the principal point to the centre: a tenth of the side costs as much as 1 px."""
FIRST_DAMPING = 1e-3
DERIVATIVE_STEP = 1e-6
MAX_CONDITION = 1e14
"""Of the normal equations, beyond which a pose counts as not fixed."""


def compute_deviations(
    camera: Any, pose: Any, xy: Array, points: Array, *, num_intrinsics: int = 0
) -> tuple[float, float]:
    """Return the standard deviations of a pose from its residuals and their derivatives.

    COLMAP's own covariance takes every residual for 1 px, and its rotation has half the angle.

    Args:
        camera: with the intrinsics that fit.
        pose: cam_from_world.
        xy: positions of the inliers, shape (match, 2), COLMAP pixels.
        points: what they show, shape (match, 3).
        num_intrinsics: estimated with the pose: 1 for the focal length, 3 with the principal point.

    Returns:
        Degrees of the orientation and units of the model of the position; infinite where the
        matches do not fix the pose.
    """
    num_unknown = 6 + num_intrinsics
    if 2 * len(xy) <= num_unknown:
        return float("inf"), float("inf")
    state = _State(camera, pose, points)
    errors, jacobian = state.linearise(xy, num_unknown)
    variance = float((errors**2).sum()) / (2 * len(xy) - num_unknown)
    normal = jacobian.T @ jacobian
    if not np.isfinite(normal).all() or np.linalg.cond(normal) > MAX_CONDITION:
        return float("inf"), float("inf")
    covariance = variance * np.linalg.inv(normal)
    rotation_std = float(np.degrees(np.sqrt(np.trace(covariance[:3, :3]))))
    return rotation_std, state.depth * float(np.sqrt(np.trace(covariance[3:6, 3:6])))


def refine_with_principal_point(
    camera: Any, pose: Any, xy: Array, points: Array
) -> tuple[Any, Any]:
    """Improve a pose together with focal length and principal point, for an image that may be cut.

    Returns:
        Camera and pose. Those given where the matches do not fix nine unknowns.
    """
    best, best_cost = (camera, pose), compute_cost(camera, pose, xy, points)
    damping = FIRST_DAMPING
    for _ in range(ITERATIONS):
        near = np.linalg.norm(project(*best, points) - xy, axis=1) <= MAX_ERROR_PX
        if near.sum() < MIN_INLIERS:
            break
        state = _State(*best, points[near])
        step = state.find_step(xy[near], damping)
        moved = state.move(step)
        cost = compute_cost(*moved, xy, points)
        if cost < best_cost:
            best, best_cost, damping = moved, cost, damping / 10
        else:
            damping *= 10
    return best


class _State:
    """A camera and its pose as numbers that can change a little.

    They are a rotation vector, a shift of the centre in units of ``depth``, the logarithm of the
    focal length, and a shift of the principal point in units of the longer side.
    """

    def __init__(self, camera: Any, pose: Any, points: Array) -> None:
        self.camera, self.points = camera, points
        self.rotation = np.asarray(pose.rotation.matrix(), dtype=np.float64)
        self.centre = -self.rotation.T @ np.asarray(pose.translation, dtype=np.float64)
        self.depth = float(np.median(np.linalg.norm(points - self.centre, axis=1)))
        self.side = max(camera.width, camera.height)

    def move(self, change: Array) -> tuple[Any, Any]:
        """Return the camera and the pose after a change of nine numbers."""
        rotation = rotate_by(change[:3]) @ self.rotation
        centre = self.centre + change[3:6] * self.depth
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(rotation), -rotation @ centre)
        if not change[6:].any():
            return self.camera, pose
        focal = float(self.camera.mean_focal_length()) * float(np.exp(change[6]))
        camera = with_focal(self.camera, focal)
        params = np.array(camera.params, dtype=np.float64)
        params[list(camera.principal_point_idxs())] += change[7:] * self.side
        camera.params = params.tolist()
        return camera, pose

    def off_centre(self, camera: Any) -> Array:
        """Return how far the principal point is from the centre, in units of the longer side."""
        params = np.array(camera.params, dtype=np.float64)[list(camera.principal_point_idxs())]
        middle = np.array([camera.width, camera.height]) / 2
        return np.asarray((params - middle) / self.side)

    def find_step(self, xy: Array, damping: float) -> Array:
        """Return a robust Levenberg-Marquardt step of all nine numbers."""
        errors, jacobian = self.linearise(xy, 9)
        weights = np.repeat(1 / (1 + (errors.reshape(-1, 2) ** 2).sum(1)), 2)
        normal = jacobian.T @ (weights[:, None] * jacobian) + np.diag(PRIOR)
        pull = np.zeros(9)
        pull[7:] = PRIOR[7:] * self.off_centre(self.camera)
        damped = normal + damping * np.diag(np.diag(normal))
        return np.asarray(-np.linalg.solve(damped, jacobian.T @ (weights * errors) + pull))

    def linearise(self, xy: Array, num_unknown: int) -> tuple[Array, Array]:
        """Return residuals in pixels and their derivatives by the first numbers."""
        steps = np.asarray(DERIVATIVE_STEP * np.eye(9)[:num_unknown], dtype=np.float64)
        columns = [
            (project(*self.move(step), self.points) - project(*self.move(-step), self.points))
            / (2 * DERIVATIVE_STEP)
            for step in steps
        ]
        errors = project(*self.move(np.zeros(9)), self.points) - xy
        return errors.ravel(), np.stack([column.ravel() for column in columns], axis=1)


def project(camera: Any, pose: Any, points: Array) -> Array:
    """Return where points appear, COLMAP pixels; infinitely far for those behind the camera."""
    rotation = np.asarray(pose.rotation.matrix(), dtype=np.float64)
    seen = points @ rotation.T + np.asarray(pose.translation, dtype=np.float64)
    ahead = seen[:, 2] > 1e-9
    projected = np.full((len(points), 2), np.inf)
    projected[ahead] = camera.img_from_cam(seen[ahead])
    return projected


def compute_cost(camera: Any, pose: Any, xy: Array, points: Array) -> float:
    """Return the truncated sum of squared errors: less for more inliers and for smaller errors."""
    squared = ((project(camera, pose, points) - xy) ** 2).sum(1)
    return float(np.minimum(squared, MAX_ERROR_PX**2).sum())
