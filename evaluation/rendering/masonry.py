"""What walls and grounds are made of: bricks, planks, paving stones, plaster, and their age.

Every function gives a fresh texture of shape (height, width, 3), RGB in 0..1. No two stones are
alike: each has its own size, colour, brightness and grain.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.rendering.noise import Field, blend, fractal_noise, smooth_step

Color = tuple[float, float, float]

BRICK_COLORS: tuple[Color, ...] = (
    (0.62, 0.33, 0.25),
    (0.55, 0.27, 0.21),
    (0.68, 0.42, 0.31),
    (0.48, 0.25, 0.22),
    (0.60, 0.38, 0.30),
    (0.38, 0.24, 0.23),
)
STONE_COLORS: tuple[Color, ...] = (
    (0.66, 0.62, 0.54),
    (0.58, 0.55, 0.50),
    (0.70, 0.65, 0.55),
    (0.52, 0.50, 0.48),
    (0.63, 0.57, 0.48),
)
WOOD_COLORS: tuple[Color, ...] = (
    (0.55, 0.40, 0.26),
    (0.62, 0.46, 0.30),
    (0.48, 0.34, 0.22),
    (0.58, 0.45, 0.33),
)


def lay_courses(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    course_px: float,
    length_px: float,
    joint_px: float,
    colors: Sequence[Color],
    joint_color: Color = (0.66, 0.62, 0.56),
    irregularity: float = 0.15,
    bevel: float = 0.16,
    grain_px: float = 12.0,
    grain_stretch: float = 1.0,
    roughness: float = 0.35,
) -> Field:
    """Rows of bricks, hewn stones or planks in a running bond.

    Args:
        shape: (height, width).
        rng: drawn from.
        course_px: mean height of a row.
        length_px: mean length of a brick.
        joint_px: width of the mortar.
        colors: that bricks are drawn from.
        joint_color: of the mortar.
        irregularity: spread of the sizes as a share of them.
        bevel: brightness of the lit upper edges, and darkness of the lower ones.
        grain_px: coarsest structure on a brick's face.
        grain_stretch: below 1 for grain along the row.
        roughness: how far edges are from straight, as a share of the joint.
    """
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    wobble = roughness * joint_px
    x += wobble * fractal_noise(shape, rng, coarsest_px=course_px / 2, finest_px=2)
    y += wobble * fractal_noise(shape, rng, coarsest_px=course_px / 2, finest_px=2)
    row, top, bottom = _split_rows(y, course_px, irregularity, rng)
    column, left, right = _split_columns(x, row, length_px, irregularity, rng)
    stone = (row * 7919 + column) % 8192
    inside = np.minimum(np.minimum(x - left, right - x), np.minimum(y - top, bottom - y))
    face = smooth_step(inside, 0.25 * joint_px, 0.75 * joint_px)
    palette = _stone_colors(colors, rng)
    tone = fractal_noise(shape, rng, coarsest_px=grain_px, stretch=grain_stretch, roughness=0.75)
    light = 1.0 + 0.10 * tone + _bevel(x - left, y - top, right - x, bottom - y, joint_px, bevel)
    faces = palette[stone] * light[..., None]
    rough = fractal_noise(shape, rng, coarsest_px=6.0, roughness=0.8)
    joints = np.asarray(joint_color, np.float32) * (0.85 + 0.10 * rough)[..., None]
    return blend(joints, faces, face[..., None])


def lay_paving(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    stone_px: float,
    joint_px: float,
    colors: Sequence[Color] = STONE_COLORS,
    joint_color: Color = (0.30, 0.28, 0.22),
) -> Field:
    """Irregular polygonal stones with dark joints (Voronoi cells of a jittered grid)."""
    label, edge = _voronoi(shape, stone_px, rng)
    palette = _stone_colors(colors, rng)
    face = smooth_step(edge, 0.3 * joint_px, joint_px)
    crown = smooth_step(edge, 0.0, 0.35 * stone_px)
    coarse = fractal_noise(shape, rng, coarsest_px=stone_px / 2, roughness=0.75)
    pits = smooth_step(fractal_noise(shape, rng, coarsest_px=5.0, roughness=0.7), 1.0, 2.2)
    light = (0.80 + 0.22 * crown) * (1.0 + 0.09 * coarse) * (1.0 - 0.35 * pits)
    faces = palette[label % len(palette)] * light[..., None]
    soil = fractal_noise(shape, rng, coarsest_px=8.0, roughness=0.8)
    joints = np.asarray(joint_color, np.float32) * (1.0 + 0.22 * soil)[..., None]
    return blend(joints, faces, face[..., None])


def spread_plaster(
    shape: tuple[int, int], rng: np.random.Generator, color: Color, *, px_per_metre: float
) -> Field:
    """Trowelled plaster with patches, cracks and places where it came off the bricks."""
    relief = fractal_noise(shape, rng, coarsest_px=px_per_metre / 6, roughness=0.8)
    patch = fractal_noise(shape, rng, coarsest_px=px_per_metre * 1.5, roughness=0.55)
    light = 1.0 + 0.05 * relief + 0.06 * np.tanh(1.5 * patch)
    plaster = np.asarray(color, np.float32) * light[..., None]
    for _ in range(max(2, round(shape[1] / px_per_metre))):
        _draw_crack(plaster, rng, px_per_metre)
    bare = fractal_noise(shape, rng, coarsest_px=px_per_metre, roughness=0.62)
    hole = smooth_step(bare, 1.75, 1.85)
    rim = smooth_step(bare, 1.62, 1.75) * (1.0 - hole)
    bricks = lay_courses(
        shape,
        rng,
        course_px=px_per_metre * 0.085,
        length_px=px_per_metre * 0.25,
        joint_px=px_per_metre * 0.016,
        colors=BRICK_COLORS,
    )
    worn = plaster * (1.0 - 0.35 * rim)[..., None]
    return blend(worn, bricks * 0.9, hole[..., None])


def weather(texture: Field, rng: np.random.Generator, *, px_per_metre: float, age: float) -> Field:
    """Stains, streaks of rain and dirt near the ground, stronger with ``age`` (0 to 1)."""
    shape = texture.shape[:2]
    stains = fractal_noise(shape, rng, coarsest_px=px_per_metre * 2.0, finest_px=2, roughness=0.65)
    streaks = fractal_noise(shape, rng, coarsest_px=px_per_metre / 4, roughness=0.7, stretch=9.0)
    height_m = (shape[0] - np.arange(shape[0], dtype=np.float32))[:, None] / px_per_metre
    ragged = height_m + 0.18 * stains
    dirt = np.exp(-np.maximum(ragged, 0.0) / 0.5)
    dark = age * (0.10 * stains + 0.16 * smooth_step(streaks, 0.3, 2.0) + 0.40 * dirt)
    moss = age * 0.5 * smooth_step(stains + 1.8 * dirt, 1.2, 2.2)
    aged = texture * np.exp(-dark)[..., None]
    green = np.asarray((0.30, 0.34, 0.20), np.float32) * (0.8 + 0.1 * streaks)[..., None]
    return np.clip(blend(aged, green, moss[..., None]), 0.0, 1.0)


def _stone_colors(colors: Sequence[Color], rng: np.random.Generator) -> Field:
    base = np.asarray(colors, np.float32)[rng.integers(len(colors), size=8192)]
    brightness = np.exp(0.13 * rng.standard_normal((8192, 1))).astype(np.float32)
    tint = 1.0 + 0.018 * rng.standard_normal((8192, 3)).astype(np.float32)
    return base * brightness * tint


def _split_rows(
    y: Field, course_px: float, irregularity: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], Field, Field]:
    count = int(y.max() / course_px) + 4
    places = (np.arange(count) - 1 + irregularity * rng.uniform(-1, 1, count)) * course_px
    edges = places.astype(np.float32)
    row = np.clip(np.searchsorted(edges, y) - 1, 0, count - 2).astype(np.int64)
    return row, edges[row], edges[row + 1]


def _split_columns(
    x: Field,
    row: NDArray[np.int64],
    length_px: float,
    irregularity: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], Field, Field]:
    rows, count = int(row.max()) + 1, int(x.max() / length_px) + 6
    jitter = min(irregularity, 0.4) * rng.uniform(-1, 1, (rows, count))
    bond = 0.5 * (np.arange(rows) % 2) + 0.25 * rng.random(rows)
    edges = ((np.arange(count) - 2 + bond[:, None] + jitter) * length_px).astype(np.float32)
    offset = ((bond - 2) * length_px).astype(np.float32)
    column = np.clip(((x - offset[row]) / length_px).astype(np.int64), 1, count - 3)
    column += (x >= edges[row, column + 1]).astype(np.int64)
    column -= (x < edges[row, column]).astype(np.int64)
    column = np.clip(column, 0, count - 2)
    return column, edges[row, column], edges[row, column + 1]


def _bevel(
    left: Field, top: Field, right: Field, bottom: Field, joint_px: float, strength: float
) -> Field:
    reach = 1.3 * joint_px
    lit = np.exp(-np.maximum(np.minimum(left, top), 0.0) / reach)
    dark = np.exp(-np.maximum(np.minimum(right, bottom), 0.0) / reach)
    return np.asarray(strength * (lit - 1.4 * dark), dtype=np.float32)


def _voronoi(
    shape: tuple[int, int], cell_px: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], Field]:
    """Label of each pixel's cell, and the distance in pixels to the cell's edge."""
    rows, columns = int(shape[0] / cell_px) + 1, int(shape[1] / cell_px) + 1
    grid = np.argwhere(np.ones((rows, columns), bool))
    seeds = ((grid + 0.5 + 0.42 * rng.uniform(-1, 1, grid.shape)) * cell_px).astype(np.int64)
    empty = np.full(shape, 255, np.uint8)
    empty[np.clip(seeds[:, 0], 0, shape[0] - 1), np.clip(seeds[:, 1], 0, shape[1] - 1)] = 0
    _, nearest = cv2.distanceTransformWithLabels(
        empty, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    label = np.asarray(nearest, dtype=np.int64)
    edge = np.zeros(shape, bool)
    edge[:, 1:] |= label[:, 1:] != label[:, :-1]
    edge[1:] |= label[1:] != label[:-1]
    distance = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    return label, np.asarray(distance, dtype=np.float32)


def _draw_crack(texture: Field, rng: np.random.Generator, px_per_metre: float) -> None:
    height, width = texture.shape[:2]
    steps = int(rng.integers(12, 40))
    turn = np.cumsum(rng.normal(0, 0.35, steps)) + rng.uniform(0, np.pi)
    path = np.cumsum(np.stack([np.cos(turn), np.sin(turn)], 1) * px_per_metre * 0.06, axis=0)
    path += rng.random(2) * (width, height)
    dark = tuple(float(v) for v in 0.55 * texture.mean((0, 1)))
    cv2.polylines(texture, [np.rint(path).astype(np.int32)], False, dark, 1)
