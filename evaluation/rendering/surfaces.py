"""Flat textured surfaces in space, and the solids made of them. World units are metres, z is up."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.rendering.noise import Image

Vector = NDArray[np.float64]
UP: Vector = np.array((0.0, 0.0, 1.0))


@dataclass(frozen=True, eq=False)
class Texture:
    """A picture, and its halvings for looking at it from afar.

    Attributes:
        image: RGB, or RGBA with alpha 0 where the surface has a hole.
    """

    image: Image

    @property
    def has_holes(self) -> bool:
        """Whether there is an alpha channel."""
        return bool(self.image.shape[2] == 4)

    @cached_property
    def levels(self) -> list[Image]:
        """The image at its size, at half, a quarter, ... down to one pixel."""
        levels = [self.image]
        while max(levels[-1].shape[:2]) > 1:
            height, width = ((side + 1) // 2 for side in levels[-1].shape[:2])
            small = cv2.resize(levels[-1], (width, height), interpolation=cv2.INTER_AREA)
            levels.append(np.asarray(small, dtype=np.uint8))
        return levels


@dataclass(frozen=True, eq=False)
class Surface:
    """A parallelogram that shows a part of a texture on its front.

    Attributes:
        corner: where the texture's upper left is.
        edge_u: from there along the texture's x.
        edge_v: from there along the texture's y. The front is where x goes right and y down.
        texture: what it shows.
        region: part of the texture as (left, top, right, bottom), 0..1.
    """

    corner: Vector
    edge_u: Vector
    edge_v: Vector
    texture: Texture
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    @property
    def normal(self) -> Vector:
        """Unit vector out of the front."""
        across = np.cross(self.edge_v, self.edge_u)
        return np.asarray(across / np.linalg.norm(across))

    @property
    def corners(self) -> Vector:
        """The four corners in order, shape (4, 3)."""
        c, u, v = self.corner, self.edge_u, self.edge_v
        return np.stack([c, c + u, c + u + v, c + v])

    @property
    def size_m(self) -> tuple[float, float]:
        """Lengths of both edges."""
        return float(np.linalg.norm(self.edge_u)), float(np.linalg.norm(self.edge_v))

    def point_at(self, u: float, v: float) -> Vector:
        """The point at texture position (u, v) of this surface, 0..1."""
        return self.corner + u * self.edge_u + v * self.edge_v


def make_wall(
    left: tuple[float, float],
    right: tuple[float, float],
    bottom: float,
    top: float,
    texture: Texture,
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
) -> Surface:
    """An upright rectangle; left and right are ground positions as seen from its front."""
    edge = np.array((right[0] - left[0], right[1] - left[1], 0.0), dtype=np.float64)
    corner = np.array((left[0], left[1], top), dtype=np.float64)
    return Surface(corner, edge, np.array((0.0, 0.0, bottom - top)), texture, region)


def make_box(
    centre: tuple[float, float],
    size: tuple[float, float, float],
    bottom: float,
    angle_deg: float,
    sides: list[Texture],
    top: Texture,
) -> list[Surface]:
    """A box on the level ``bottom``: four sides and a top, without a floor.

    Args:
        centre: of its base, (x, y).
        size: along x, y (before turning) and z.
        bottom: height of its base.
        angle_deg: turn about the vertical.
        sides: textures of the front (-y), right, back and left, repeated if fewer.
        top: texture of the lid.
    """
    half_x, half_y = size[0] / 2, size[1] / 2
    base = [(-half_x, -half_y), (half_x, -half_y), (half_x, half_y), (-half_x, half_y)]
    ring = [_turned(point, centre, angle_deg) for point in base]
    high = bottom + size[2]
    walls = [
        make_wall(ring[k], ring[(k + 1) % 4], bottom, high, sides[k % len(sides)]) for k in range(4)
    ]
    return [*walls, _make_lid(ring, high, top)]


def make_prism(
    centre: tuple[float, float],
    radius: float,
    bottom: float,
    top: float,
    num_sides: int,
    texture: Texture,
) -> list[Surface]:
    """A column with flat sides around which one texture goes once."""
    turn = np.linspace(0.0, 2.0 * np.pi, num_sides + 1)
    ring = [(centre[0] + radius * np.cos(t), centre[1] + radius * np.sin(t)) for t in turn]
    return [
        make_wall(
            ring[k], ring[k + 1], bottom, top, texture, (k / num_sides, 0, (k + 1) / num_sides, 1)
        )
        for k in range(num_sides)
    ]


def make_level(
    centre: tuple[float, float],
    size: tuple[float, float],
    height: float,
    texture: Texture,
    angle_deg: float = 0.0,
) -> Surface:
    """A horizontal rectangle that is seen from above."""
    half_x, half_y = size[0] / 2, size[1] / 2
    base = [(-half_x, -half_y), (half_x, -half_y), (half_x, half_y), (-half_x, half_y)]
    return _make_lid([_turned(point, centre, angle_deg) for point in base], height, texture)


def _make_lid(ring: list[tuple[float, float]], height: float, texture: Texture) -> Surface:
    near_left, near_right, _, far_left = (np.array((x, y, height), np.float64) for x, y in ring)
    return Surface(far_left, near_right - near_left, near_left - far_left, texture)


def _turned(
    point: tuple[float, float], centre: tuple[float, float], angle_deg: float
) -> tuple[float, float]:
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return (
        float(centre[0] + cos * point[0] - sin * point[1]),
        float(centre[1] + sin * point[0] + cos * point[1]),
    )


def clip_polygon(points: Vector, normal: Vector, offset: float) -> Vector:
    """The part of a convex polygon where ``normal @ x >= offset``, shape (corner, dimension)."""
    side = points @ normal - offset
    kept: list[Vector] = []
    for k in range(len(points)):
        here, there = points[k], points[(k + 1) % len(points)]
        a, b = side[k], side[(k + 1) % len(points)]
        if a >= 0:
            kept.append(here)
        if (a >= 0) != (b >= 0):
            kept.append(here + (there - here) * (a / (a - b)))
    return np.array(kept).reshape(-1, points.shape[1])
