"""Cast a ray through every pixel onto the nearest surface.

A plane seen by a pinhole camera is a homography, so texture position and inverse depth of all rays
come in closed form; inverse depth is linear in the pixel, which makes the depth test exact. Colours
are read from two neighbouring levels of the texture, whose texels are as large as the pixel's
footprint, so that nothing aliases.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Float64
from numpy.typing import NDArray

from evaluation.rendering.lighting import LightMap, light_surfaces
from evaluation.rendering.noise import Field, Image
from evaluation.rendering.surfaces import UP, Surface, Vector, clip_polygon

NEAR_M = 0.05
LEVEL_BIAS = 0.2
"""Added to the texture level: a little softer, against aliasing of surfaces seen at a slant."""
CHUNK = 1024
LINEAR: Field = (np.arange(256, dtype=np.float32) / np.float32(255.0)) ** np.float32(2.2)
"""Light for a stored byte."""


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera.

    Attributes:
        rotation: cam_from_world.
        centre: in the world, metres.
        focal_px: focal length.
        principal_px: principal point in COLMAP's frame: (0, 0) is the first pixel's corner.
        size: (width, height) of the image.
    """

    rotation: Vector
    centre: Vector
    focal_px: float
    principal_px: tuple[float, float]
    size: tuple[int, int]

    @property
    def matrix(self) -> Vector:
        """Intrinsic matrix in COLMAP's pixel frame."""
        cx, cy = self.principal_px
        return np.array([[self.focal_px, 0.0, cx], [0.0, self.focal_px, cy], [0.0, 0.0, 1.0]])

    def project(self, points: Vector) -> Vector:
        """Where world points appear, in house pixels ((0, 0) is a pixel's centre)."""
        image = (points - self.centre) @ self.rotation.T @ self.matrix.T
        return np.asarray(image[:, :2] / image[:, 2:] - 0.5)


@dataclass(frozen=True, eq=False)
class World:
    """Surfaces with the light on them, in a sky.

    Attributes:
        surfaces: all of them.
        light: one map for each surface.
        sky: panorama with +y in its middle; its y goes from the zenith to the horizon.
    """

    surfaces: list[Surface]
    light: list[LightMap]
    sky: Image


def light_world(surfaces: list[Surface], sky: Image) -> World:
    """A world with the shadows of its surfaces worked out."""
    return World(surfaces, light_surfaces(surfaces), sky)


def render(
    world: World,
    camera: Camera,
    *,
    supersampling: int = 2,
    sun: tuple[float, float, float] = (1.0, 0.93, 0.80),
    ambient: tuple[float, float, float] = (0.21, 0.26, 0.34),
) -> Float32[np.ndarray, "height width 3"]:
    """The light that falls on the camera's pixels.

    Args:
        world: what there is to see.
        camera: from where.
        supersampling: rays along each side of a pixel.
        sun: RGB strength of the sun.
        ambient: RGB strength of the sky.

    Returns:
        Linear RGB, about 0..1 for daylight.
    """
    nearest, hit = _find_nearest(world.surfaces, camera, supersampling)
    color = _draw_sky(world.sky, camera, supersampling)
    for index, rows, columns in _group_rays(hit):
        surface, light = world.surfaces[index], world.light[index]
        rays = _rays(columns, rows, supersampling)
        uv_from_pixel = _uv_from_pixel(surface, camera)
        u, v = _uv(uv_from_pixel, rays)
        level = _texture_level(surface, uv_from_pixel, nearest[rows, columns], supersampling)
        albedo = LINEAR[_sample(surface, u, v, level)[..., :3]]
        shade = np.asarray(sun, np.float32) * _sample_map(light.sun, u, v)[:, None]
        shade = shade + np.asarray(ambient, np.float32) * _sample_map(light.sky, u, v)[:, None]
        color[rows, columns] = albedo * shade
    pixels = cv2.resize(color, camera.size, interpolation=cv2.INTER_AREA)
    return np.asarray(pixels, dtype=np.float32)


def see_surfaces(
    world: World, camera: Camera
) -> tuple[NDArray[np.int16], Float64[np.ndarray, "surface 3 3"]]:
    """Say what each pixel shows, and where the surfaces lie in the image.

    Returns:
        The number of the surface at each pixel's centre, -1 for the sky; and of each surface the
        homography to house pixels from positions on it, (0, 0) to (1, 1) along its edges.
    """
    _, hit = _find_nearest(world.surfaces, camera, 1)
    to_house = np.array([[1.0, 0.0, -0.5], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]])
    project = to_house @ camera.matrix @ camera.rotation
    return hit, np.stack([project @ _plane(surface, camera) for surface in world.surfaces])


def _group_rays(
    hit: NDArray[np.int16],
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Each surface that is seen, with the rows and columns of its rays."""
    order = np.argsort(hit, axis=None, kind="stable")
    indices, starts = np.unique(hit.ravel()[order], return_index=True)
    for index, rays in zip(indices.tolist(), np.split(order, starts[1:]), strict=True):
        if index >= 0:
            rows, columns = np.divmod(rays, hit.shape[1])
            yield index, rows, columns


def _find_nearest(
    surfaces: list[Surface], camera: Camera, supersampling: int
) -> tuple[Field, NDArray[np.int16]]:
    """Inverse depth of the nearest surface at each ray, and its index, -1 for none."""
    width, height = (side * supersampling for side in camera.size)
    nearest = np.zeros((height, width), np.float32)
    hit = np.full((height, width), -1, np.int16)
    for index, surface in enumerate(surfaces):
        bounds = _bounds(surface, camera, supersampling)
        if bounds is None:
            continue
        left, top, right, bottom = bounds
        uv_from_pixel = _uv_from_pixel(surface, camera)
        rays = _rays(np.arange(left, right), np.arange(top, bottom)[:, None], supersampling)
        inverse_depth = _linear(uv_from_pixel[2], rays)
        u, v = _uv(uv_from_pixel, rays)
        place = (slice(top, bottom), slice(left, right))
        wins = (inverse_depth > nearest[place]) & (inverse_depth < 1.0 / NEAR_M)
        wins &= (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
        if surface.texture.has_holes and wins.any():
            level = _texture_level(surface, uv_from_pixel, inverse_depth[wins], supersampling)
            wins[wins] = _sample(surface, u[wins], v[wins], level)[:, 3] > 127
        nearest[place][wins] = inverse_depth[wins]
        hit[place][wins] = index
    return nearest, hit


def _uv_from_pixel(surface: Surface, camera: Camera) -> Vector:
    """Homography from COLMAP pixels to texture positions; its third row gives inverse depth."""
    pixel_from_uv = camera.matrix @ camera.rotation @ _plane(surface, camera)
    return np.asarray(np.linalg.inv(pixel_from_uv), dtype=np.float64)


def _plane(surface: Surface, camera: Camera) -> Vector:
    """Points of the surface as the camera's centre sees them, from (u, v, 1)."""
    return np.stack([surface.edge_u, surface.edge_v, surface.corner - camera.centre], axis=1)


def _bounds(
    surface: Surface, camera: Camera, supersampling: int
) -> tuple[int, int, int, int] | None:
    """Box (left, top, right, bottom) of fine pixels around a surface whose front is seen."""
    if surface.normal @ (camera.centre - surface.corner) < 1e-6 and not surface.texture.has_holes:
        return None
    if abs(surface.normal @ (camera.centre - surface.corner)) < 1e-6:
        return None
    seen = (surface.corners - camera.centre) @ camera.rotation.T
    seen = clip_polygon(seen, UP, NEAR_M)
    if len(seen) < 3:
        return None
    image = seen @ camera.matrix.T
    fine = image[:, :2] / image[:, 2:] * supersampling
    limit = np.array(camera.size) * supersampling
    low = np.clip(np.floor(fine.min(0)), 0, limit).astype(int)
    high = np.clip(np.ceil(fine.max(0)) + 1, 0, limit).astype(int)
    if (high <= low).any():
        return None
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _rays(
    columns: NDArray[np.int64], rows: NDArray[np.int64], supersampling: int
) -> tuple[Vector, Vector]:
    return (columns + 0.5) / supersampling, (rows + 0.5) / supersampling


def _linear(coefficients: Vector, rays: tuple[Vector, Vector]) -> Field:
    x, y = rays
    return np.asarray(coefficients[0] * x + (coefficients[1] * y + coefficients[2]), np.float32)


def _uv(uv_from_pixel: Vector, rays: tuple[Vector, Vector]) -> tuple[Field, Field]:
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 1.0 / _linear(uv_from_pixel[2], rays)
        return _linear(uv_from_pixel[0], rays) * scale, _linear(uv_from_pixel[1], rays) * scale


def _texture_level(
    surface: Surface, uv_from_pixel: Vector, inverse_depth: Field, supersampling: int
) -> Field:
    """log2 of the side in texels of a ray's footprint; the homography's Jacobian says its area."""
    height, width = surface.texture.image.shape[:2]
    left, top, right, bottom = surface.region
    texels = width * (right - left) * height * (bottom - top)
    area = abs(np.linalg.det(uv_from_pixel)) * texels / supersampling**2
    level = 0.5 * np.log2(np.float32(area) / inverse_depth**3) + np.float32(LEVEL_BIAS)
    return np.asarray(np.clip(level, 0.0, len(surface.texture.levels) - 1.001), dtype=np.float32)


def _sample(surface: Surface, u: Field, v: Field, level: Field) -> Image:
    """Texture values at positions of shape (ray,), read from two levels and blended."""
    left, top, right, bottom = surface.region
    x, y = left + (right - left) * u, top + (bottom - top) * v
    whole = level.astype(np.int8)
    channels = surface.texture.image.shape[2]
    values = np.empty((len(u), channels), np.uint8)
    for k in np.unique(whole):
        chosen = whole == k
        part = (level[chosen] - np.float32(k))[:, None]
        fine = _read(surface.texture.levels[k], x[chosen], y[chosen])
        coarse = _read(
            surface.texture.levels[min(k + 1, len(surface.texture.levels) - 1)],
            x[chosen],
            y[chosen],
        )
        values[chosen] = (fine + (coarse - fine.astype(np.float32)) * part + 0.5).astype(np.uint8)
    return values


def _sample_map(light: Field, u: Field, v: Field) -> Field:
    return _read(light[..., None], u, v)[:, 0]


def _read(image: NDArray[Any], x: Field, y: Field) -> NDArray[Any]:
    """Bilinear values of shape (ray, channel) at positions in 0..1 of the image's width, height."""
    height, width, channels = image.shape
    rows = -(-len(x) // CHUNK)
    grid = np.full((2, rows * CHUNK), -1.0, np.float32)
    grid[0, : len(x)] = x * np.float32(width) - np.float32(0.5)
    grid[1, : len(y)] = y * np.float32(height) - np.float32(0.5)
    map_x, map_y = grid.reshape(2, rows, CHUNK)
    values = cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(values).reshape(-1, channels)[: len(x)]


def _draw_sky(sky: Image, camera: Camera, supersampling: int) -> Field:
    """The sky in all directions, at full fine size."""
    width, height = (side * supersampling for side in camera.size)
    x, y = _rays(np.arange(width), np.arange(height)[:, None], supersampling)
    to_world = np.linalg.inv(camera.matrix @ camera.rotation)
    dx, dy, dz = (_linear(row, (x, y)) for row in to_world)
    around = np.arctan2(dx, dy) / np.float32(2 * np.pi) + np.float32(0.5)
    up = np.clip(dz / np.sqrt(dx * dx + dy * dy + dz * dz), 0.0, 1.0)
    map_x = around * np.float32(sky.shape[1]) - np.float32(0.5)
    map_y = (1 - up) * np.float32(sky.shape[0] - 1)
    shown = cv2.remap(sky, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(LINEAR[shown], dtype=np.float32)
