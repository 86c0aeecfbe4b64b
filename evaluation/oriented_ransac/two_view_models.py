"""Errors of two-view models on all matches, and their refinement on the points alone.

Both are the same whatever a model was sampled from. Everything is in one frame that moves the
points to the origin and scales both images alike, so that errors are pixels times that scale.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float64

from evaluation.oriented_ransac.oriented_constraints import (
    epipolar_rows,
    homogeneous,
    homography_rows,
)
from evaluation.relative_pose.correspondences import Correspondences, Matrix

Models = Float64[np.ndarray, "model 3 3"]
Errors = Float64[np.ndarray, "model match"]

GENERATORS = np.zeros((3, 3, 3))
"""Skew matrices: rotations about x, y and z."""
GENERATORS[0, 2, 1] = GENERATORS[1, 0, 2] = GENERATORS[2, 1, 0] = 1
GENERATORS[0, 1, 2] = GENERATORS[1, 2, 0] = GENERATORS[2, 0, 1] = -1
DAMPING = 1e-9
"""Share of the trace added to the normal equations: E has one direction that changes nothing."""
TINY = 1e-300


class TwoViewModel(Protocol):
    """A kind of model with the matches it is estimated from."""

    @property
    def num_points(self) -> int:
        """Least points that determine it."""

    @property
    def num_matches(self) -> int:
        """Return matches in all."""

    def squared_errors(self, models: Models) -> Errors:
        """Squared error of every match under every model, in the frame's unit."""

    def chosen(self, index: np.ndarray) -> "TwoViewModel":
        """Return the same for some of the matches."""

    def improve(self, model: Matrix, weights: Float64[np.ndarray, " match"]) -> Matrix:
        """Return one step of Gauss and Newton's method on the weighted squared errors."""


@dataclass(frozen=True)
class EpipolarModel:
    """F, or E of calibrated cameras; the error is Sampson's (Hartley & Zisserman, 11.4.3).

    Attributes:
        rows: epipolar rows of the matches in the common frame.
        xyw_a: the matches' points of image a in it, homogeneous.
        xyw_b: those of image b.
        ray_from_a: for E, rays of camera a from the frame; None for F.
        ray_from_b: likewise.
    """

    rows: Float64[np.ndarray, "match 9"]
    xyw_a: Float64[np.ndarray, "match 3"]
    xyw_b: Float64[np.ndarray, "match 3"]
    ray_from_a: Matrix | None = None
    ray_from_b: Matrix | None = None

    @property
    def num_points(self) -> int:
        """7 for F, 5 for E, as of the minimal point solvers."""
        return 7 if self.ray_from_a is None else 5

    @property
    def num_matches(self) -> int:
        """Return matches in all."""
        return len(self.rows)

    def squared_errors(self, models: Models) -> Errors:
        """Sampson errors: (x_b^T F x_a)^2 over the squared slopes."""
        fundamental = self._in_frame(models)
        count = len(fundamental)
        value = fundamental.reshape(count, 9) @ self.rows.T
        slopes = self._slopes(fundamental)
        errors: Errors = value * value / (slopes + TINY)
        return errors

    def chosen(self, index: np.ndarray) -> "EpipolarModel":
        """Return the same for some of the matches."""
        parts = (self.rows[index], self.xyw_a[index], self.xyw_b[index])
        return EpipolarModel(*parts, self.ray_from_a, self.ray_from_b)

    def improve(self, model: Matrix, weights: Float64[np.ndarray, " match"]) -> Matrix:
        """Return a step on U diag(1, s, 0) V^T, with s = 1 for E; slopes are held."""
        left, values, right = np.linalg.svd(model)
        second = 1.0 if self.ray_from_a is not None else values[1] / max(values[0], TINY)
        middle = np.diag([1.0, second, 0.0])
        changes = [left @ g @ middle @ right for g in GENERATORS]
        changes += [left @ middle @ g.T @ right for g in GENERATORS]
        if self.ray_from_a is None:
            changes.append(left @ np.diag([0.0, 1.0, 0.0]) @ right)
        start = left @ middle @ right
        fundamental = self._in_frame(start[None])
        weights = np.sqrt(weights / (self._slopes(fundamental)[0] + TINY))
        slopes = self._in_frame(np.stack(changes)).reshape(-1, 9)
        jacobian = weights[:, None] * (self.rows @ slopes.T)
        step = _normal_step(jacobian, weights * (self.rows @ fundamental.reshape(9)))
        rotation_left, rotation_right = _rotation(step[:3]), _rotation(step[3:6])
        if self.ray_from_a is None:
            middle = np.diag([1.0, second + step[6], 0.0])
        improved: Matrix = left @ rotation_left @ middle @ rotation_right.T @ right
        return improved

    def _in_frame(self, models: Models) -> Models:
        if self.ray_from_a is None or self.ray_from_b is None:
            return models
        return np.asarray(self.ray_from_b.T @ models @ self.ray_from_a)

    def _slopes(self, fundamental: Models) -> Errors:
        """Squared length of both epipolar lines' normals."""
        count = len(fundamental)
        lines_b = fundamental[:, :2].reshape(2 * count, 3) @ self.xyw_a.T
        lines_a = fundamental.swapaxes(1, 2)[:, :2].reshape(2 * count, 3) @ self.xyw_b.T
        lines_b *= lines_b
        lines_a *= lines_a
        lines_b += lines_a
        slopes: Errors = lines_b[::2] + lines_b[1::2]
        return slopes


@dataclass(frozen=True)
class HomographyModel:
    """H; the error is the distance in image b between a point and its prediction."""

    rows: Float64[np.ndarray, "match 2 9"]
    xyw_a: Float64[np.ndarray, "match 3"]

    @property
    def num_points(self) -> int:
        """4, as of the minimal point solver."""
        return 4

    @property
    def num_matches(self) -> int:
        """Return matches in all."""
        return len(self.rows)

    def squared_errors(self, models: Models) -> Errors:
        """Squared transfer errors; infinite for points behind the horizon of the sample."""
        flat = models.reshape(len(models), 9)
        depth = models[:, 2] @ self.xyw_a.T
        errors = (flat @ self.rows[:, 0].T) ** 2 + (flat @ self.rows[:, 1].T) ** 2
        squared: Errors = errors / (depth * depth + TINY)
        return squared

    def chosen(self, index: np.ndarray) -> "HomographyModel":
        """Return the same for some of the matches."""
        return HomographyModel(self.rows[index], self.xyw_a[index])

    def improve(self, model: Matrix, weights: Float64[np.ndarray, " match"]) -> Matrix:
        """Return a step on the nine entries at unit length; depths are held."""
        start = model / np.linalg.norm(model)
        depth = self.xyw_a @ start[2]
        weights = np.sqrt(weights) / np.where(abs(depth) < 1e-12, np.inf, depth)
        jacobian = (weights[:, None, None] * self.rows).reshape(-1, 9)
        along = start.reshape(9)
        free = np.linalg.svd(along[None])[2][1:].T
        step = free @ _normal_step(jacobian @ free, jacobian @ along)
        return np.asarray(start + step.reshape(3, 3))


def epipolar_model(
    c: Correspondences, ray_from_a: Matrix | None = None, ray_from_b: Matrix | None = None
) -> EpipolarModel:
    """F of matches in a common frame; E if the cameras' rays from that frame are given."""
    rows, xyw_a, xyw_b = epipolar_rows(c), homogeneous(c.xy_a), homogeneous(c.xy_b)
    return EpipolarModel(rows, xyw_a, xyw_b, ray_from_a, ray_from_b)


def homography_model(c: Correspondences) -> HomographyModel:
    """H of matches in a common frame."""
    return HomographyModel(homography_rows(c), homogeneous(c.xy_a))


def common_frame(c: Correspondences) -> tuple[Matrix, Matrix]:
    """Maps that centre each image's points and give both together a root mean square of 1."""
    if not len(c):
        return np.eye(3), np.eye(3)
    centres = [xy.mean(axis=0) for xy in (c.xy_a, c.xy_b)]
    spread = np.mean([((c.xy_a - centres[0]) ** 2).mean(), ((c.xy_b - centres[1]) ** 2).mean()])
    scale = 1 / max(float(np.sqrt(spread)), 1e-6)
    frames = []
    for centre in centres:
        frame = np.diag([scale, scale, 1.0])
        frame[:2, 2] = -scale * centre
        frames.append(frame)
    return frames[0], frames[1]


REFINING_FACTORS = (*np.geomspace(3.0, 1, 4).tolist(), *[1.0] * 4)
"""Of the threshold, one for each step of :func:`refine`."""


def refine(
    kind: TwoViewModel,
    model: Matrix,
    squared_threshold: float,
) -> tuple[Matrix, Bool[np.ndarray, " match"]]:
    """Return a model improved on its inliers, which are chosen anew before each step.

    The threshold falls from three times the given one to it over the first half of the steps;
    inliers weigh less towards it (Tukey's biweight); the last inliers are those of the result.
    """
    for factor in REFINING_FACTORS:
        errors = kind.squared_errors(model[None])[0] / (squared_threshold * factor**2)
        if (errors < 1).sum() < kind.num_points:
            break
        improved = kind.improve(model, np.square(np.maximum(1 - errors, 0)))
        if not np.isfinite(improved).all():
            break
        model = improved
    return model, kind.squared_errors(model[None])[0] < squared_threshold


def _normal_step(
    jacobian: Float64[np.ndarray, "row parameter"], value: Float64[np.ndarray, " row"]
) -> Float64[np.ndarray, " parameter"]:
    normal = jacobian.T @ jacobian
    normal += (DAMPING * np.trace(normal) + TINY) * np.eye(len(normal))
    step: Float64[np.ndarray, " parameter"] = -np.linalg.solve(normal, jacobian.T @ value)
    return step


def _rotation(vector: Float64[np.ndarray, " 3"]) -> Matrix:
    """Cayley's rotation for a small vector."""
    half = np.einsum("i,ijk->jk", vector / 2, GENERATORS)
    rotation: Matrix = np.linalg.solve(np.eye(3) - half, np.eye(3) + half)
    return rotation
