"""What light reaches a surface: the sun with its cast shadows, and the sky with its dim corners."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.rendering.noise import Field
from evaluation.rendering.surfaces import Surface, Vector, clip_polygon

TO_SUN: Vector = np.array((0.25, -0.62, 0.74)) / np.linalg.norm((0.25, -0.62, 0.74))
MAP_PX_PER_METRE = 24.0
MAX_MAP_PX = 640
PENUMBRA_M = 0.035
CORNER_REACH_M = 1.0
"""Things farther than this in front of a surface do not dim its skylight."""
CONTACT_M = 0.01
"""Things nearer than this belong to the surface and cast no shadow on it."""
SKY_FROM_GROUND = 0.55
"""Skylight on a surface that looks down, over that on one that looks up."""


@dataclass(frozen=True, eq=False)
class LightMap:
    """Shares of sunlight and skylight that reach a surface, 0..1, over its whole texture region.

    Attributes:
        sun: times the cosine of incidence, shape (rows, columns). Light shines through leaves: what
            has holes is lit from both sides.
        sky: shape (rows, columns).
    """

    sun: Field
    sky: Field


def light_surfaces(surfaces: list[Surface], to_sun: Vector = TO_SUN) -> list[LightMap]:
    """A light map for each surface, with the shadows that all others cast on it."""
    corners = np.stack([surface.corners for surface in surfaces])
    return [_light(surface, surfaces, corners, to_sun) for surface in surfaces]


def _light(surface: Surface, casters: list[Surface], corners: Vector, to_sun: Vector) -> LightMap:
    rows, columns = _map_size(surface)
    normal = surface.normal
    up = 0.5 + 0.5 * normal[2]
    sky = np.full((rows, columns), SKY_FROM_GROUND + (1 - SKY_FROM_GROUND) * up, np.float32)
    cosine = float(normal @ to_sun)
    cosine = abs(cosine) if surface.texture.has_holes else max(cosine, 0.0)
    sun = np.full((rows, columns), cosine, np.float32)
    if cosine > 0:
        shadow = _project(surface, casters, corners, to_sun, np.inf, (rows, columns))
        sun *= 1.0 - _soften(shadow, surface, PENUMBRA_M)
    near = _project(surface, casters, corners, normal, CORNER_REACH_M, (rows, columns))
    sky *= 1.0 - 0.30 * _soften(near, surface, 0.30) - 0.25 * _soften(near, surface, 0.07)
    return LightMap(sun, sky)


def _map_size(surface: Surface) -> tuple[int, int]:
    width, height = (int(np.ceil(side * MAP_PX_PER_METRE)) for side in surface.size_m)
    return min(max(height, 4), MAX_MAP_PX), min(max(width, 4), MAX_MAP_PX)


def _project(
    surface: Surface,
    casters: list[Surface],
    corners: Vector,
    direction: Vector,
    reach_m: float,
    shape: tuple[int, int],
) -> Field:
    """1 where something lies in ``direction`` from the surface, nearer than ``reach_m``."""
    normal = surface.normal
    level = float(normal @ surface.corner)
    frame = np.stack([surface.edge_u, surface.edge_v, direction], axis=1)
    uv_from_world = np.linalg.inv(frame)[:2]
    mask = np.zeros(shape, np.uint8)
    height = corners @ normal - level
    near = (height.max(1) > CONTACT_M) & (height.min(1) < reach_m)
    rough = (corners - surface.corner) @ uv_from_world.T
    near &= ((rough.max(1) > 0) & (rough.min(1) < 1)).all(1)
    for index in np.flatnonzero(near):
        caster = casters[index]
        part = clip_polygon(corners[index], normal, level + CONTACT_M)
        if height[index].max() > reach_m and len(part):
            part = clip_polygon(part, -normal, -(level + reach_m))
        if len(part) < 3:
            continue
        uv = (part - surface.corner) @ uv_from_world.T
        if caster.texture.has_holes:
            _cast_holes(mask, uv, caster, rough[index])
        else:
            _fill(mask, uv)
    return np.asarray(mask, dtype=np.float32) / np.float32(255.0)


def _fill(mask: NDArray[np.uint8], uv: Vector) -> None:
    points = np.clip(uv, -50, 50) * (mask.shape[1], mask.shape[0]) - 0.5
    fixed = np.rint(points * 16).astype(np.int32)
    cv2.fillConvexPoly(mask, fixed, (255,), cv2.LINE_AA, 4)


def _cast_holes(mask: NDArray[np.uint8], uv: Vector, caster: Surface, caster_uv: Vector) -> None:
    """The caster's shadow where its texture has no hole; the polygon ``uv`` bounds it."""
    alpha = caster.texture.levels[min(2, len(caster.texture.levels) - 1)][..., 3]
    corners = caster_uv * (mask.shape[1], mask.shape[0])
    size = (alpha.shape[1], alpha.shape[0])
    source = np.array([(0, 0), (size[0], 0), (size[0], size[1]), (0, size[1])], np.float32) - 0.5
    map_from_alpha = cv2.getPerspectiveTransform(source, (corners - 0.5).astype(np.float32))
    if abs(np.linalg.det(map_from_alpha)) < 1e-9:
        return
    shadow = cv2.warpPerspective(alpha, map_from_alpha, (mask.shape[1], mask.shape[0]))
    bound = np.zeros_like(mask)
    _fill(bound, uv)
    np.maximum(mask, np.minimum(shadow, bound), out=mask)


def _soften(mask: Field, surface: Surface, sigma_m: float) -> Field:
    width, height = surface.size_m
    sigma_x = max(sigma_m * mask.shape[1] / width, 0.3)
    sigma_y = max(sigma_m * mask.shape[0] / height, 0.3)
    soft = cv2.GaussianBlur(mask, (0, 0), sigma_x, sigmaY=sigma_y, borderType=cv2.BORDER_REFLECT)
    return np.asarray(soft, dtype=np.float32)
