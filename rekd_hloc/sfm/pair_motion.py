"""What moved between the two images of a pair: the camera's place, or only its direction and zoom.

Images from one place are related by ``K_b R inv(K_a)`` whatever the scene: nothing in them depends
on depth. This module fits that relation to the inliers of a pair, with focal lengths and a radial
distortion of its own, so that neither unknown intrinsics nor a lens hide it. A homography alone
would not do: it also explains a plane seen by a moving camera, where depth is well determined.
"""

import itertools
from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

from rekd_hloc.config import MAX_ERROR_PX

Array = NDArray[np.float64]

MIN_MATCHES = 30
"""With fewer inliers, twice COLMAP's minimum, a pair may be verified by chance: nothing is said."""
SAME_VIEW_PX = 1.0
"""Median displacement up to which two images show the same view."""
EXPLAINED = 0.9
"""Share of the inliers that a rotation must explain within ``MAX_ERROR_PX``; epipolar geometry lets
some wrong matches through."""
FOCAL_RANGE = (0.4, 2.2)
"""Focal lengths tried where none is known, in units of the longer side: 14 to 80 mm of a 35 mm
camera. A longer lens would make the shift along a wall a rotation."""
KNOWN_FOCAL_RANGE = (0.7, 1.4)
"""The same around a known focal length."""
NUM_FOCALS = 6
MAX_DISTORTION = 0.3
"""Of ``1 + k r^2``, where r is 1 at the longer side's length from the centre."""
NUM_POINTS = 200
"""Matches used for the fit; more add time and no certainty."""
ITERATIONS = 15
HOPELESS_PX = 40.0
"""A median residual beyond this before the refinement is no rotation."""
STEP = 1e-6
USUAL_LENS = np.array([0.0, 0.0, 0.0])
"""Logarithms of focal lengths in units of the longer side, and distortion."""
USUAL_WEIGHTS = np.array([1.0, 1.0, 100.0])
"""What a deviation of 1 from the usual lens costs, in matches that are ``MAX_ERROR_PX`` off."""
LONGEST = 0.98
"""A fit that needs the longest focal length stands for a shift along a plane."""


class Motion(StrEnum):
    """What happened between two images."""

    SAME_VIEW = "same_view"
    ROTATION = "rotation"
    PLANE = "plane"
    PARALLAX = "parallax"


@dataclass(frozen=True)
class View:
    """An image's keypoints that take part in a pair, and its camera as far as it is known.

    Attributes:
        xy: shape (match, 2), COLMAP pixels.
        size: (width, height) of the image.
        focal_px: known focal length, None if it is only assumed.
    """

    xy: Array
    size: tuple[int, int]
    focal_px: float | None = None

    @property
    def unit_px(self) -> float:
        """Return the longer side, the unit of the fit."""
        return float(max(self.size))

    @property
    def focal_bounds(self) -> tuple[float, float]:
        """Return the focal lengths to try, in units of the longer side."""
        if self.focal_px is None:
            return FOCAL_RANGE
        low, high = KNOWN_FOCAL_RANGE
        return self.focal_px * low / self.unit_px, self.focal_px * high / self.unit_px

    def normalised(self) -> Array:
        """Positions from the image's centre in units of the longer side."""
        return np.asarray((self.xy - np.array(self.size) / 2) / self.unit_px, dtype=np.float64)


def find_motion(a: View, b: View, *, planar: bool) -> Motion:
    """Say what moved between two images.

    Args:
        a: first image, at the inliers of the pair.
        b: second image, likewise.
        planar: the pair's inliers fit a homography.

    Returns:
        ``SAME_VIEW`` where next to nothing moved, ``ROTATION`` where rotation and zoom explain all,
        else ``PLANE`` or ``PARALLAX``.
    """
    if a.size == b.size and np.median(np.linalg.norm(a.xy - b.xy, axis=1)) <= SAME_VIEW_PX:
        return Motion.SAME_VIEW
    errors, focal_share = fit_rotation(a, b)
    is_shift = planar and focal_share > LONGEST and a.focal_px is None and b.focal_px is None
    if np.mean(errors <= MAX_ERROR_PX) >= EXPLAINED and not is_shift:
        return Motion.ROTATION
    return Motion.PLANE if planar else Motion.PARALLAX


def fit_rotation(a: View, b: View) -> tuple[Array, float]:
    """Fit the best rotation with free focal lengths, robustly and deterministically.

    Returns:
        Residuals of at most ``NUM_POINTS`` matches in pixels of ``b``, and the larger of the two
        focal lengths as a share of the longest allowed one.
    """
    every = max(1, -(-len(a.xy) // NUM_POINTS))
    rays_a, rays_b = a.normalised()[::every], b.normalised()[::every]
    low, high = np.log([a.focal_bounds, b.focal_bounds]).T
    tolerance = MAX_ERROR_PX / b.unit_px
    state, rotation = _start(rays_a, rays_b, low, high)
    errors = _residuals(rays_a, rays_b, rotation, state)
    best = _cost(errors, tolerance), errors, state
    if _median_length(errors) * b.unit_px <= HOPELESS_PX:
        for iteration in range(ITERATIONS):
            state, rotation = _improve(rays_a, rays_b, rotation, state, tolerance)
            state[:2] = np.clip(state[:2], low, high)
            state[2] = np.clip(state[2], -MAX_DISTORTION, MAX_DISTORTION)
            errors = _residuals(rays_a, rays_b, rotation, state)
            cost = _cost(errors, tolerance)
            gained = best[0] - cost
            if gained > 0:
                best = cost, errors, state
            is_hopeless = iteration >= 3 and _median_length(errors) * b.unit_px > 3 * MAX_ERROR_PX
            if 0 <= gained < 0.01 * cost or is_hopeless:
                break
    _, errors, state = best
    return np.linalg.norm(errors, axis=1) * b.unit_px, float(np.exp((state[:2] - high).max()))


def _start(rays_a: Array, rays_b: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Return the best of some pairs of focal lengths, each with its least-squares rotation.

    The state is (log focal of a, log focal of b, distortion).
    """
    spread = [np.linalg.norm(rays - rays.mean(0), axis=1).mean() for rays in (rays_a, rays_b)]
    zoom = float(np.log(max(spread[1], 1e-9) / max(spread[0], 1e-9)))
    best: tuple[float, Array, Array] | None = None
    for share, ratio in itertools.product(np.linspace(0.0, 1.0, NUM_FOCALS), (0.0, zoom)):
        middle = low + share * (high - low)
        focals = np.clip(middle + np.array([-ratio / 2, ratio / 2]), low, high)
        directions = (_directions(r, f) for r, f in zip((rays_a, rays_b), focals, strict=True))
        rotation = _rotate(*directions)
        state = np.array([*focals, 0.0])
        error = float(
            np.median(np.linalg.norm(_residuals(rays_a, rays_b, rotation, state), axis=1))
        )
        if best is None or error < best[0]:
            best = error, state, rotation
    assert best is not None
    return best[1], best[2]


def _directions(rays: Array, log_focal: float) -> Array:
    full = np.column_stack([rays / np.exp(log_focal), np.ones(len(rays))])
    return np.asarray(full / np.linalg.norm(full, axis=1, keepdims=True))


def _rotate(directions_a: Array, directions_b: Array) -> Array:
    """Rotation from a to b with the least squared error (Kabsch)."""
    u, _, vt = np.linalg.svd(directions_b.T @ directions_a)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    return np.asarray(u @ np.diag(signs) @ vt)


def _residuals(rays_a: Array, rays_b: Array, rotation: Array, state: Array) -> Array:
    """Predicted minus measured undistorted positions in b, in units of its longer side."""
    focal_a, focal_b, distortion = np.exp(state[0]), np.exp(state[1]), state[2]
    straight_a = rays_a * (1 + distortion * (rays_a**2).sum(1, keepdims=True))
    straight_b = rays_b * (1 + distortion * (rays_b**2).sum(1, keepdims=True))
    seen = np.column_stack([straight_a / focal_a, np.ones(len(rays_a))]) @ rotation.T
    depth = np.maximum(seen[:, 2:], 1e-2)
    return np.asarray(focal_b * seen[:, :2] / depth - straight_b)


def _improve(
    rays_a: Array, rays_b: Array, rotation: Array, state: Array, tolerance: float
) -> tuple[Array, Array]:
    """Make one robust Gauss-Newton step, with a weak pull towards a usual lens."""
    base = _residuals(rays_a, rays_b, rotation, state)
    columns = []
    for index in range(6):
        moved = np.zeros(6)
        moved[index] = STEP
        stepped = _residuals(rays_a, rays_b, rotate_by(moved[:3]) @ rotation, state + moved[3:])
        columns.append((stepped - base).ravel() / STEP)
    jacobian = np.stack(columns, axis=1)
    weight = 1 / (1 + (np.linalg.norm(base, axis=1) / tolerance) ** 2)
    weighted = jacobian * np.repeat(weight, 2)[:, None]
    pull = tolerance**2 * USUAL_WEIGHTS
    gradient = weighted.T @ base.ravel()
    gradient[3:] += pull * (state - USUAL_LENS)
    normal = weighted.T @ jacobian + np.diag([0.0, 0.0, 0.0, *pull])
    step = -np.linalg.solve(normal, gradient)
    return state + step[3:], rotate_by(step[:3]) @ rotation


def rotate_by(vector: Array) -> Array:
    """Rotation matrix of a rotation vector in radians (Rodrigues)."""
    return np.asarray(cv2.Rodrigues(vector)[0], dtype=np.float64)


def _median_length(errors: Array) -> float:
    return float(np.median(np.linalg.norm(errors, axis=1)))


def _cost(errors: Array, tolerance: float) -> float:
    return float(np.log1p((errors**2).sum(1) / tolerance**2).sum())
