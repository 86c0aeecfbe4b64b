"""Synthetic pairs of views of small planes, with the angles and scales that a detector would give.

Every correspondence lies on a plane of its own (or all on one), so that the first-order map between
the images is exact, and with it how angles and scales go along. Noise, outliers and coarse scales
are added on demand.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64

from evaluation.relative_pose.correspondences import Correspondences, Matrix, make_correspondences

ScaleKind = Literal["along", "area"]
FOCAL_PX = 800.0
SIZE_PX = 1000.0
DEPTHS = (2.0, 6.0)
"""Range of depths in units of the baseline."""
MAX_ROTATION_DEG = 20.0
MAX_SLANT_DEG = 60.0
"""Largest angle between a patch's normal and the ray of camera a."""


@dataclass(frozen=True)
class Noise:
    """What spoils exact features; the defaults are a scale-quantised oriented detector's."""

    point_px: float = 0.7
    """Standard deviation of each coordinate in image b."""
    angle_deg: float = 4.0
    """Standard deviation of the core of angle errors, of the two images together."""
    wrong_angle: float = 0.05
    """Share of angles anywhere."""
    scale_octaves: float = 0.25
    """Scales of each image are off by up to so much, uniformly (steps of sqrt(2))."""


EXACT = Noise(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Scene:
    """Correspondences with the truth behind them.

    Attributes:
        correspondences: in pixels.
        is_inlier: which are true matches.
        K: intrinsics of both cameras.
        rotation: ``x_b = rotation x_a + translation``.
        translation: of unit length.
        homography: pixels of b from pixels of a; None unless all lie on one plane.
    """

    correspondences: Correspondences
    is_inlier: Bool[np.ndarray, " match"]
    K: Matrix
    rotation: Matrix
    translation: Float64[np.ndarray, " 3"]
    homography: Matrix | None

    @property
    def essential(self) -> Matrix:
        """E with ``ray_b^T E ray_a = 0``."""
        return np.asarray(cross_matrix(self.translation) @ self.rotation)

    @property
    def fundamental(self) -> Matrix:
        """F with ``x_b^T F x_a = 0`` in pixels."""
        inverse = np.linalg.inv(self.K)
        return np.asarray(inverse.T @ self.essential @ inverse)


def make_scene(
    rng: np.random.Generator,
    num_matches: int,
    inlier_share: float = 1.0,
    *,
    noise: Noise = EXACT,
    scale_kind: ScaleKind = "area",
    is_planar: bool = False,
) -> Scene:
    """Return a random pair of views.

    Args:
        rng: source of everything.
        num_matches: right and wrong ones together.
        inlier_share: share of right ones.
        noise: see :class:`Noise`.
        scale_kind: whether the ratio of scales is the stretch along the angle (``along``, for which
            the oriented constraint is exact) or the square root of that of area (as detectors do).
        is_planar: all on one plane, so that there is a homography.

    Raises:
        ValueError: the share is not in [0, 1].
    """
    if not 0 <= inlier_share <= 1:
        raise ValueError(f"inlier_share must be in [0, 1], got {inlier_share}")
    rotation, translation = _motion(rng)
    intrinsics = np.array([[FOCAL_PX, 0, SIZE_PX / 2], [0, FOCAL_PX, SIZE_PX / 2], [0, 0, 1.0]])
    maps, xy_a = _patches(rng, num_matches, intrinsics, rotation, translation, is_planar)
    xy_b, jacobians = _transfer(maps, xy_a)
    angle_a = rng.uniform(0, 2 * np.pi, num_matches)
    scale_a = 2 ** rng.uniform(0, 3, num_matches)
    angle_b, stretch = _carried(jacobians, angle_a, scale_kind)
    is_inlier = np.arange(num_matches) < round(inlier_share * num_matches)
    exact = (xy_b, angle_b, scale_a, stretch * scale_a)
    xy_b, angle_b, *scales = _spoil(rng, noise, is_inlier, *exact)
    found = make_correspondences(xy_a, xy_b, angle_a, angle_b, *scales)
    order = rng.permutation(num_matches)
    homography = maps[0] if is_planar and num_matches else None
    return Scene(found[order], is_inlier[order], intrinsics, rotation, translation, homography)


def cross_matrix(vector: Float64[np.ndarray, " 3"]) -> Matrix:
    """Return the matrix whose product with x is ``vector`` cross x."""
    x, y, z = vector
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])


def _motion(rng: np.random.Generator) -> tuple[Matrix, Float64[np.ndarray, " 3"]]:
    axis = rng.normal(size=3)
    angle = np.radians(rng.uniform(-MAX_ROTATION_DEG, MAX_ROTATION_DEG))
    k = cross_matrix(axis / np.linalg.norm(axis))
    translation = rng.normal(size=3)
    rotation = np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k
    return rotation, translation / np.linalg.norm(translation)


def _patches(
    rng: np.random.Generator, count: int, K: Matrix, rotation: Matrix,
    translation: Float64[np.ndarray, " 3"], is_planar: bool,
) -> tuple[Float64[np.ndarray, "match 3 3"], Float64[np.ndarray, "match 2"]]:  # fmt: skip
    """Homographies of planes that both cameras see from the front, and a point of each."""
    maps, points = np.zeros((0, 3, 3)), np.zeros((0, 2))
    inverse = np.linalg.inv(K)
    plane: tuple[np.ndarray, np.ndarray] | None = None
    while len(points) < count:
        size = max(4 * count, 64)
        xy = rng.uniform(0, SIZE_PX, (size, 2))
        rays = np.concatenate([xy, np.ones((size, 1))], axis=1) @ inverse.T
        normal, distance = _planes(rng, rays)
        if is_planar:
            plane = plane or (normal[:1], distance[:1])
            normal, distance = (np.repeat(part, size, axis=0) for part in plane)
        spread = translation[:, None] * normal[:, None, :] / distance[:, None, None]
        found = K @ (rotation + spread) @ inverse
        xy_b, jacobians = _transfer(found, xy)
        depth_a = distance / (normal * rays).sum(-1)
        depth_b = ((rays * depth_a[:, None]) @ rotation.T + translation)[:, 2]
        area = np.linalg.det(jacobians)
        is_seen = (depth_a > 1) & (depth_b > 1) & (area > 0.15) & (area < 7)
        is_seen &= ((xy_b > 0) & (xy_b < SIZE_PX)).all(axis=1)
        if is_planar and is_seen.mean() < 0.2:
            plane = None
            continue
        maps, points = np.concatenate([maps, found[is_seen]]), np.concatenate([points, xy[is_seen]])
    return maps[:count], points[:count]


def _planes(
    rng: np.random.Generator, rays: Float64[np.ndarray, "match 3"]
) -> tuple[Float64[np.ndarray, "match 3"], Float64[np.ndarray, " match"]]:
    """Unit normals n (away from camera a) and distances d > 0 of planes n.X = d on the rays."""
    unit = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    side = np.cross(unit, rng.normal(size=rays.shape))
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    slant = np.arccos(rng.uniform(np.cos(np.radians(MAX_SLANT_DEG)), 1, len(rays)))[:, None]
    normal = np.cos(slant) * unit + np.sin(slant) * side
    depth = rng.uniform(*DEPTHS, len(rays))
    return normal, (normal * rays).sum(-1) * depth


def _transfer(
    maps: Float64[np.ndarray, "match 3 3"], xy: Float64[np.ndarray, "match 2"]
) -> tuple[Float64[np.ndarray, "match 2"], Float64[np.ndarray, "match 2 2"]]:
    """Return where each point goes by its own homography, and the first-order map there."""
    image = (maps @ np.concatenate([xy, np.ones((len(xy), 1))], axis=1)[:, :, None])[:, :, 0]
    xy_b = image[:, :2] / image[:, 2:]
    jacobians = maps[:, :2, :2] - xy_b[:, :, None] * maps[:, 2:, :2]
    return xy_b, jacobians / image[:, 2, None, None]


def _carried(
    jacobians: Float64[np.ndarray, "match 2 2"],
    angle_a: Float64[np.ndarray, " match"],
    scale_kind: ScaleKind,
) -> tuple[Float64[np.ndarray, " match"], Float64[np.ndarray, " match"]]:
    """Return angles in image b, and by what scales change."""
    direction = np.stack([np.cos(angle_a), np.sin(angle_a)], -1)
    moved = (jacobians @ direction[:, :, None])[:, :, 0]
    angle_b = np.arctan2(moved[:, 1], moved[:, 0])
    if scale_kind == "area":
        return angle_b, np.sqrt(np.linalg.det(jacobians))
    return angle_b, np.hypot(moved[:, 0], moved[:, 1])


def _spoil(
    rng: np.random.Generator,
    noise: Noise,
    is_inlier: Bool[np.ndarray, " match"],
    *exact: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """Return positions and angles of b and both scales with noise; outliers are anything."""
    xy_b, angle_b, scale_a, scale_b = exact
    count = len(xy_b)
    xy_b = xy_b + rng.normal(0, 1, xy_b.shape) * noise.point_px
    angle_b = angle_b + rng.normal(0, 1, count) * np.radians(noise.angle_deg)
    is_wrong = (rng.uniform(size=count) < noise.wrong_angle) | ~is_inlier
    angle_b = np.where(is_wrong, rng.uniform(0, 2 * np.pi, count), angle_b)
    off = [2 ** (rng.uniform(-1, 1, count) * noise.scale_octaves) for _ in range(2)]
    scale_b = np.where(is_inlier, scale_b, 2 ** rng.uniform(0, 3, count))
    xy_b = np.where(is_inlier[:, None], xy_b, rng.uniform(0, SIZE_PX, (count, 2)))
    return xy_b, angle_b, scale_a * off[0], scale_b * off[1]
