"""The paved ground of the courtyard, with what lies and is drawn on it."""

import numpy as np

from evaluation.rendering import masonry, nature
from evaluation.rendering.canvas import Canvas, box_points, pick_color
from evaluation.rendering.noise import Image, fractal_noise, to_bytes
from evaluation.rendering.surfaces import Surface, Texture, make_level

SIZE_M = (26.0, 20.0)
CENTRE = (0.0, 0.0)
PX_PER_METRE = 80.0
CHALK: tuple[masonry.Color, ...] = ((0.93, 0.93, 0.90), (0.92, 0.70, 0.74), (0.66, 0.80, 0.92))


def make_ground(rng: np.random.Generator) -> list[Surface]:
    """Paving inside the court, and a meadow all around it a little lower."""
    return [
        make_level(CENTRE, SIZE_M, 0.0, Texture(_pave(rng))),
        make_level((0.0, 5.0), (90.0, 70.0), -0.02, Texture(_sow(rng))),
    ]


def _pave(rng: np.random.Generator) -> Image:
    shape = (round(SIZE_M[1] * PX_PER_METRE), round(SIZE_M[0] * PX_PER_METRE))
    stones = masonry.lay_paving(
        shape, rng, stone_px=0.42 * PX_PER_METRE, joint_px=0.035 * PX_PER_METRE
    )
    stains = fractal_noise(shape, rng, coarsest_px=3 * PX_PER_METRE, finest_px=4, roughness=0.6)
    stones *= np.exp(0.13 * np.clip(stains, -2.0, 1.5))[..., None]
    canvas = Canvas(np.clip(stones, 0, 1), PX_PER_METRE)
    for x, y in ((9.6, 11.6), (16.8, 12.6), (13.4, 7.6)):
        _draw_manhole(canvas, x + rng.uniform(-0.4, 0.4), y, rng.uniform(0.34, 0.45), rng)
    _draw_hopscotch(canvas, 8.4, 13.6, rng)
    for x, y in ((15.2, 14.2), (11.3, 9.6), (18.2, 10.2), (6.2, 10.4)):
        _draw_chalk(canvas, x, y, rng)
    nature.scatter_leaves(canvas, 1500, rng)
    return canvas.image


def _sow(rng: np.random.Generator) -> Image:
    shape = (700, 900)
    tone = fractal_noise(shape, rng, coarsest_px=80, roughness=0.75)
    base = np.asarray((0.30, 0.36, 0.18), np.float32)
    return to_bytes(base * np.exp(0.16 * tone)[..., None])


def _draw_manhole(
    canvas: Canvas, x: float, y: float, radius: float, rng: np.random.Generator
) -> None:
    canvas.ellipse(x, y, radius + 0.05, radius + 0.05, (0.20, 0.19, 0.18))
    canvas.ellipse(x, y, radius, radius, (0.36, 0.34, 0.32))
    spokes, phase = int(rng.integers(5, 9)), rng.uniform(0, np.pi)
    for ring, count in ((0.45, spokes), (0.78, 2 * spokes)):
        for k in range(count):
            t = phase + 2 * np.pi * (k + rng.uniform(-0.1, 0.1)) / count
            cx, cy = x + ring * radius * np.cos(t), y + ring * radius * np.sin(t)
            canvas.ellipse(cx, cy, 0.09 * radius, 0.05 * radius, (0.18, 0.17, 0.16), np.degrees(t))
    canvas.write(str(rng.integers(100, 999)), x - 0.12, y - 0.06, 0.24, 0.12, (0.6, 0.57, 0.5))


def _draw_hopscotch(canvas: Canvas, x: float, y: float, rng: np.random.Generator) -> None:
    """Numbered squares in chalk, in a crooked row."""
    side = 0.5
    for number in range(1, 8):
        left = x + (number % 2) * 0.12 + (0.3 if number in (4, 7) else 0.0)
        top = y - 0.54 * number
        corners = np.array([*box_points(left, top, side, side), (left, top)])
        corners += rng.normal(0, 0.015, corners.shape)
        color = pick_color(CHALK, rng)
        canvas.line(corners, color, 0.035)
        canvas.write(str(number), left + 0.12, top + 0.1, 0.26, 0.3, color)


def _draw_chalk(canvas: Canvas, x: float, y: float, rng: np.random.Generator) -> None:
    """A child's sun, flower or house."""
    color, turn = pick_color(CHALK, rng), rng.uniform(0, 2 * np.pi)
    rays, radius = int(rng.integers(6, 11)), rng.uniform(0.18, 0.3)
    t = np.linspace(0, 2 * np.pi, 25)
    canvas.line(np.stack([x + radius * np.cos(t), y + radius * np.sin(t)], 1), color, 0.035)
    for k in range(rays):
        a = turn + 2 * np.pi * k / rays
        reach = radius * rng.uniform(1.5, 2.3)
        ray = [(x + r * np.cos(a), y + r * np.sin(a)) for r in (1.2 * radius, reach)]
        canvas.line(ray, pick_color(CHALK, rng), 0.03)
    for side in (-0.4, 0.4):
        canvas.ellipse(x + side * radius, y - 0.25 * radius, 0.03, 0.04, color)
    smile = np.linspace(0.2, np.pi - 0.2, 10)
    canvas.line(
        np.stack([x + 0.5 * radius * np.cos(smile), y + 0.5 * radius * np.sin(smile)], 1),
        color,
        0.03,
    )
