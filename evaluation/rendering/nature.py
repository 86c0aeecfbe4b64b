"""Leaves, trees and clouds."""

import cv2
import numpy as np

from evaluation.rendering.canvas import Canvas, box_points, pick_color, scale_color
from evaluation.rendering.facade import FLOWER_COLORS, LEAF_COLORS
from evaluation.rendering.masonry import Color
from evaluation.rendering.noise import Field, Image, blend, fractal_noise, smooth_step, to_bytes

FALLEN_COLORS: tuple[Color, ...] = (
    (0.70, 0.45, 0.15),
    (0.60, 0.28, 0.12),
    (0.75, 0.62, 0.22),
    (0.45, 0.35, 0.15),
    (0.50, 0.20, 0.12),
)
ROOF_COLORS: tuple[Color, ...] = ((0.50, 0.26, 0.20), (0.40, 0.30, 0.28), (0.56, 0.36, 0.26))
HOUSE_COLORS: tuple[Color, ...] = (
    (0.80, 0.72, 0.58),
    (0.72, 0.55, 0.45),
    (0.66, 0.68, 0.66),
    (0.78, 0.64, 0.40),
)


def paint_sky(rng: np.random.Generator) -> Image:
    """A panorama of blue and clouds: x all around, y from the zenith to the horizon."""
    shape = (512, 2048)
    depth = np.linspace(0.0, 1.0, shape[0], dtype=np.float32)[:, None, None] ** 1.5
    high, low = np.array((0.30, 0.48, 0.74)), np.array((0.78, 0.85, 0.90))
    blue = np.broadcast_to((high + (low - high) * depth), (*shape, 3)).astype(np.float32)
    puffs = fractal_noise(shape, rng, coarsest_px=180, finest_px=3, roughness=0.55, stretch=0.5)
    cover = smooth_step(puffs, 0.1, 1.5)
    shade = 0.86 + 0.07 * fractal_noise(shape, rng, coarsest_px=60, finest_px=4)
    clouds = np.asarray((1.0, 0.99, 0.97), np.float32) * shade[..., None]
    sky: Field = blend(blue, clouds, 0.85 * cover[..., None])
    return np.asarray(cv2.GaussianBlur(to_bytes(sky), (0, 0), 1.5), dtype=np.uint8)


def paint_foliage(
    width_m: float, height_m: float, rng: np.random.Generator, *, px_per_metre: float = 80.0
) -> Image:
    """The crown of a tree or bush, RGBA: leaves in clusters, holes between them."""
    shape = (round(height_m * px_per_metre), round(width_m * px_per_metre))
    dark = np.full((*shape, 3), (0.10, 0.14, 0.07), np.float32)
    color, cover = (
        Canvas(dark, px_per_metre),
        Canvas(np.zeros((*shape, 3), np.float32), px_per_metre),
    )
    clusters = rng.normal(0, 0.19, (round(9 * width_m * height_m) + 6, 2))
    for cx, cy in clusters * (width_m, height_m) + np.array((width_m, height_m)) / 2:
        tone = rng.uniform(0.55, 1.25) * (1.1 - 0.35 * cy / height_m)
        for _ in range(28):
            x, y = np.array((cx, cy)) + rng.normal(0, 0.14, 2)
            long, angle = rng.uniform(0.035, 0.075), rng.uniform(0, 180)
            leaf = scale_color(pick_color(LEAF_COLORS, rng), tone * rng.uniform(0.75, 1.35))
            color.ellipse(x, y, long, 0.55 * long, leaf, angle)
            cover.ellipse(x, y, long, 0.55 * long, (1.0, 1.0, 1.0), angle)
    return np.dstack([color.image, cover.image[..., 0]])


def paint_flowerbed(width_m: float, height_m: float, rng: np.random.Generator) -> Image:
    """Plants of a planter seen from the side, RGBA."""
    px_per_metre = 130.0
    shape = (round(height_m * px_per_metre), round(width_m * px_per_metre))
    color = Canvas(np.full((*shape, 3), 0.12, np.float32), px_per_metre)
    cover = Canvas(np.zeros((*shape, 3), np.float32), px_per_metre)
    for _ in range(int(260 * width_m)):
        x, y = width_m * rng.random(), height_m * (1.0 - 0.8 * rng.random() ** 1.5)
        long, angle = rng.uniform(0.03, 0.09), rng.normal(90, 40)
        is_bloom = y < 0.6 * height_m and rng.random() < 0.3
        paint = pick_color(FLOWER_COLORS if is_bloom else LEAF_COLORS, rng, 0.06)
        thin = 0.045 if is_bloom else 0.4 * long
        for canvas, tone in ((color, paint), (cover, (1.0, 1.0, 1.0))):
            canvas.ellipse(x, y, 0.045 if is_bloom else long, thin, tone, angle)
    return np.dstack([color.image, cover.image[..., 0]])


def scatter_leaves(canvas: Canvas, count: int, rng: np.random.Generator) -> None:
    """Fallen leaves, each with a shadow, in drifts."""
    width, height = canvas.size_m
    drifts = rng.random((12, 2)) * (width, height)
    for _ in range(count):
        if rng.random() < 0.5:
            x, y = rng.random(2) * (width, height)
        else:
            x, y = drifts[int(rng.integers(12))] + rng.normal(0, 0.7, 2)
        long, angle = rng.uniform(0.04, 0.10), rng.uniform(0, 360)
        canvas.ellipse(x + 0.012, y + 0.012, long, 0.55 * long, (0.14, 0.12, 0.10), angle)
        tone = pick_color(FALLEN_COLORS, rng, 0.06)
        canvas.ellipse(x, y, long, 0.5 * long, tone, angle)
        turn = np.radians(angle)
        rib = 0.9 * long * np.array((np.cos(turn), np.sin(turn)))
        canvas.line(
            [(x - rib[0], y - rib[1]), (x + rib[0], y + rib[1])], scale_color(tone, 0.6), 0.008
        )


def paint_skyline(width_m: float, height_m: float, rng: np.random.Generator) -> Image:
    """A distant row of houses and trees, RGBA."""
    px_per_metre = 28.0
    shape = (round(height_m * px_per_metre), round(width_m * px_per_metre))
    color = Canvas(np.full((*shape, 3), 0.4, np.float32), px_per_metre)
    cover = Canvas(np.zeros((*shape, 3), np.float32), px_per_metre)
    white = (1.0, 1.0, 1.0)
    x = 0.0
    while x < width_m:
        wide, tall = rng.uniform(3.5, 7.0), height_m * rng.uniform(0.45, 0.72)
        roof = [
            (x - 0.2, height_m - tall),
            (x + wide / 2, height_m - tall - rng.uniform(1.0, 2.2)),
            (x + wide + 0.2, height_m - tall),
        ]
        wall = box_points(x, height_m - tall, wide, tall)
        color.fill(roof, pick_color(ROOF_COLORS, rng))
        color.fill(wall, pick_color(HOUSE_COLORS, rng))
        for canvas_part in (roof, wall):
            cover.fill(canvas_part, white)
        _draw_far_windows(color, (x, height_m - tall, wide, tall), rng)
        x += wide
    for _ in range(int(1.2 * width_m)):
        cx, radius = rng.random() * width_m, rng.uniform(0.5, 1.4)
        cy = height_m - rng.uniform(0.0, 1.6)
        for _ in range(45):
            px, py = np.array((cx, cy)) + rng.normal(0, 0.45 * radius, 2)
            leaf = scale_color(pick_color(LEAF_COLORS, rng), rng.uniform(0.6, 1.2))
            color.ellipse(px, py, 0.22, 0.16, leaf, rng.uniform(0, 180))
            cover.ellipse(px, py, 0.22, 0.16, white)
    return np.dstack([color.image, cover.image[..., 0]])


def _draw_far_windows(
    canvas: Canvas, wall: tuple[float, float, float, float], rng: np.random.Generator
) -> None:
    x, y, width, height = wall
    columns, rows = max(2, int(width / 1.5)), max(1, int(height / 1.9))
    for row in range(rows):
        for column in range(columns):
            left = x + width * (column + rng.uniform(0.25, 0.4)) / columns
            top = y + height * (row + rng.uniform(0.2, 0.3)) / rows
            canvas.rectangle(left - 0.1, top - 0.1, 0.85, 1.25, (0.88, 0.86, 0.80))
            canvas.rectangle(left, top, 0.65, 1.05, pick_color(((0.25, 0.28, 0.32),), rng, 0.1))
