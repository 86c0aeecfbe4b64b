"""Parts of house fronts, painted: windows, doors, shutters, shop windows."""

from dataclasses import dataclass

import numpy as np

from evaluation.rendering.canvas import Canvas, box_points, pick_color, scale_color
from evaluation.rendering.masonry import STONE_COLORS, WOOD_COLORS, Color

FRAME_COLORS: tuple[Color, ...] = (
    (0.90, 0.89, 0.84),
    (0.30, 0.20, 0.14),
    (0.20, 0.30, 0.26),
    (0.78, 0.76, 0.70),
    (0.16, 0.20, 0.28),
)
SHUTTER_COLORS: tuple[Color, ...] = (
    (0.25, 0.40, 0.36),
    (0.45, 0.20, 0.16),
    (0.28, 0.36, 0.48),
    (0.46, 0.40, 0.30),
)
FLOWER_COLORS: tuple[Color, ...] = (
    (0.85, 0.15, 0.20),
    (0.95, 0.60, 0.65),
    (0.95, 0.85, 0.30),
    (0.75, 0.30, 0.70),
    (0.95, 0.95, 0.90),
)
LEAF_COLORS: tuple[Color, ...] = (
    (0.22, 0.36, 0.14),
    (0.30, 0.46, 0.18),
    (0.16, 0.28, 0.12),
    (0.42, 0.52, 0.22),
)


@dataclass(frozen=True)
class Opening:
    """Where a window or door is: upper left corner and size in metres."""

    x: float
    y: float
    width: float
    height: float


def draw_window(canvas: Canvas, hole: Opening, rng: np.random.Generator) -> None:
    """A window with its stone surround, panes, curtains, and perhaps shutters and flowers."""
    _draw_surround(canvas, hole, rng)
    _draw_glass(canvas, hole, rng)
    _draw_sashes(canvas, hole, rng)
    if rng.random() < 0.6 and hole.width < 1.6:
        for side in (-1, 1):
            _draw_shutter(canvas, hole, side, rng)
    sill = (hole.x - 0.14, hole.y + hole.height, hole.width + 0.28, 0.10)
    canvas.shade(box_points(sill[0], sill[1] + 0.08, sill[2], 0.14), 0.6, 0.03)
    canvas.rectangle(*sill, scale_color(pick_color(STONE_COLORS, rng), 1.2))
    if rng.random() < 0.6:
        _draw_flowers(canvas, hole.x, hole.y + hole.height, hole.width, rng)


def draw_door(canvas: Canvas, hole: Opening, rng: np.random.Generator) -> None:
    """A panelled wooden door in a stone frame, with a light above it."""
    _draw_surround(canvas, hole, rng)
    color = pick_color((*WOOD_COLORS, *SHUTTER_COLORS), rng)
    canvas.rectangle(hole.x, hole.y, hole.width, hole.height, scale_color(color, 0.85))
    light = Opening(hole.x + 0.06, hole.y + 0.06, hole.width - 0.12, 0.18 * hole.height)
    _draw_glass(canvas, light, rng)
    top = hole.y + 0.24 * hole.height
    rows = sorted(rng.uniform(0.25, 0.75, 1)) if rng.random() < 0.5 else [0.35, 0.7]
    edges = [0.0, *rows, 1.0]
    for above, below in zip(edges, edges[1:], strict=False):
        for k in range(2):
            x = hole.x + 0.09 + k * (hole.width - 0.12) / 2
            y = top + above * 0.74 * hole.height
            panel = (x, y, (hole.width - 0.24) / 2, (below - above) * 0.74 * hole.height - 0.08)
            canvas.rectangle(*panel, scale_color(color, 0.55))
            canvas.rectangle(
                panel[0] + 0.03,
                panel[1] + 0.03,
                panel[2] - 0.04,
                panel[3] - 0.04,
                scale_color(color, rng.uniform(0.9, 1.15)),
            )
    brass = (0.80, 0.66, 0.30)
    canvas.ellipse(hole.x + 0.86 * hole.width, hole.y + 0.58 * hole.height, 0.04, 0.04, brass)


def draw_shop_window(canvas: Canvas, hole: Opening, rng: np.random.Generator) -> None:
    """A large pane with shelves of goods behind it."""
    _draw_surround(canvas, hole, rng)
    canvas.rectangle(hole.x, hole.y, hole.width, hole.height, (0.16, 0.13, 0.10))
    shelves = int(rng.integers(3, 5))
    for k in range(shelves):
        base = hole.y + (k + 1) * hole.height / shelves - 0.04
        canvas.rectangle(hole.x, base, hole.width, 0.04, pick_color(WOOD_COLORS, rng))
        _draw_goods(canvas, hole, base, 0.8 * hole.height / shelves, rng)
    glare = hole.x + hole.width * rng.uniform(0.1, 0.6)
    slant = [
        (glare, hole.y),
        (glare + 0.35, hole.y),
        (glare + 0.05, hole.y + hole.height),
        (glare - 0.30, hole.y + hole.height),
    ]
    canvas.shade(slant, 1.25, 0.02)
    _draw_sashes(canvas, hole, rng)


def draw_ivy(
    canvas: Canvas, hole: Opening, rng: np.random.Generator, leaves_per_m2: float = 260
) -> None:
    """Leaves that cover an area loosely, denser in its middle, each with its shadow and vein."""
    count = int(leaves_per_m2 * hole.width * hole.height)
    spread = np.clip(rng.normal(0, 0.26, (count, 2)), -0.6, 0.6)
    x = hole.x + hole.width * (0.5 + spread[:, 0])
    y = hole.y + hole.height * (0.5 + spread[:, 1])
    size, angle = rng.uniform(0.03, 0.075, count), rng.uniform(0, 360, count)
    for k in range(count):
        canvas.ellipse(
            x[k] + 0.012, y[k] + 0.018, size[k], size[k] * 0.7, (0.10, 0.12, 0.07), angle[k]
        )
        canvas.ellipse(
            x[k], y[k], size[k], size[k] * 0.65, pick_color(LEAF_COLORS, rng, 0.05), angle[k]
        )


def _draw_surround(canvas: Canvas, hole: Opening, rng: np.random.Generator) -> None:
    stone = scale_color(pick_color(STONE_COLORS, rng), rng.uniform(1.0, 1.25))
    rim = rng.uniform(0.10, 0.17)
    outer = (hole.x - rim, hole.y - rim * 1.4, hole.width + 2 * rim, hole.height + 1.4 * rim)
    canvas.shade(box_points(outer[0] + 0.04, outer[1] + 0.06, outer[2], outer[3]), 0.65, 0.03)
    canvas.rectangle(*outer, stone)
    blocks = int(rng.integers(4, 8))
    for k in range(1, blocks):
        y = hole.y + hole.height * (k + 0.2 * rng.uniform(-1, 1)) / blocks
        canvas.line([(outer[0], y), (hole.x, y)], scale_color(stone, 0.7), 0.012)
        canvas.line(
            [(hole.x + hole.width, y), (outer[0] + outer[2], y)], scale_color(stone, 0.7), 0.012
        )
    canvas.rectangle(
        hole.x - 0.02,
        hole.y - 0.02,
        hole.width + 0.04,
        hole.height + 0.03,
        scale_color(stone, 0.45),
    )


def _draw_glass(canvas: Canvas, hole: Opening, rng: np.random.Generator) -> None:
    dark, sky = np.array((0.10, 0.13, 0.16)), np.array((0.48, 0.58, 0.66)) * rng.uniform(0.5, 1.0)
    strips = 24
    for k in range(strips):
        mix = 0.75 * (1 - k / strips) ** 1.5
        r, g, b = (1 - mix) * dark + mix * sky
        canvas.rectangle(
            hole.x,
            hole.y + k * hole.height / strips,
            hole.width,
            hole.height / strips + 0.01,
            (r, g, b),
        )
    if rng.random() < 0.7:
        cloth = pick_color(((0.85, 0.82, 0.74), (0.70, 0.60, 0.55), (0.60, 0.66, 0.70)), rng)
        for side in (0.0, 1.0):
            wide, low = rng.uniform(0.15, 0.42) * hole.width, rng.uniform(0.55, 1.0) * hole.height
            folds = int(rng.integers(3, 6))
            for k in range(folds):
                x = hole.x + (
                    k / folds * wide if side == 0 else hole.width - (k + 1) / folds * wide
                )
                drop = low * (1.0 - 0.12 * k)
                canvas.rectangle(
                    x, hole.y, wide / folds, drop, scale_color(cloth, rng.uniform(0.45, 0.95))
                )
    for _ in range(int(rng.integers(2, 5))):
        x, y = hole.x + hole.width * rng.random(), hole.y + hole.height * rng.random()
        blob = np.array((rng.uniform(0.05, 0.3) * hole.width, rng.uniform(0.03, 0.2) * hole.height))
        corners = np.clip(
            np.array((x, y)) + blob * np.array([(-1, -0.6), (0.6, -1), (1, 0.5), (-0.4, 1)]),
            (hole.x, hole.y),
            (hole.x + hole.width, hole.y + hole.height),
        )
        canvas.shade(corners, rng.uniform(0.55, 1.5), 0.01)


def _draw_sashes(canvas: Canvas, hole: Opening, rng: np.random.Generator) -> None:
    frame = pick_color(FRAME_COLORS, rng)
    bar = rng.uniform(0.05, 0.08)
    columns = max(1, round(hole.width / rng.uniform(0.4, 0.7)))
    rows = max(1, round(hole.height / rng.uniform(0.4, 0.8)))
    x = hole.x + np.linspace(0, hole.width, columns + 1)
    y = hole.y + np.linspace(0, hole.height, rows + 1)
    y[1:-1] += rng.uniform(-0.12, 0.12)
    for k, place in enumerate(x):
        thick = bar if k in (0, columns) else 0.6 * bar
        canvas.rectangle(place - thick / 2, hole.y, thick, hole.height, frame)
        canvas.line(
            [(place + thick / 2, hole.y), (place + thick / 2, hole.y + hole.height)],
            scale_color(frame, 0.5),
            0.01,
        )
    for k, place in enumerate(y):
        thick = bar if k in (0, rows) else 0.6 * bar
        canvas.rectangle(hole.x, place - thick / 2, hole.width, thick, frame)
        canvas.line(
            [(hole.x, place + thick / 2), (hole.x + hole.width, place + thick / 2)],
            scale_color(frame, 0.45),
            0.012,
        )


def _draw_shutter(canvas: Canvas, hole: Opening, side: int, rng: np.random.Generator) -> None:
    width = 0.5 * hole.width
    x = hole.x - 0.18 - width if side < 0 else hole.x + hole.width + 0.18
    color = pick_color(SHUTTER_COLORS, rng, 0.02)
    canvas.shade(box_points(x + 0.03, hole.y + 0.05, width, hole.height), 0.6, 0.03)
    canvas.rectangle(x, hole.y, width, hole.height, color)
    slats = int(hole.height / rng.uniform(0.06, 0.09))
    for k in range(slats):
        y = hole.y + 0.08 + (hole.height - 0.16) * (k + 0.1 * rng.uniform(-1, 1)) / slats
        tone = scale_color(color, rng.uniform(0.40, 0.70))
        canvas.line([(x + 0.06, y), (x + width - 0.06, y)], tone, 0.02)
    for y in (hole.y + 0.2, hole.y + hole.height - 0.25):
        canvas.rectangle(x if side > 0 else x + width - 0.12, y, 0.12, 0.04, (0.12, 0.12, 0.12))


def _draw_flowers(
    canvas: Canvas, x: float, y: float, width: float, rng: np.random.Generator
) -> None:
    box = pick_color(WOOD_COLORS, rng)
    canvas.rectangle(x, y - 0.06, width, 0.20, box)
    canvas.shade(box_points(x, y + 0.08, width, 0.06), 0.6, 0.01)
    blooms = [pick_color(FLOWER_COLORS, rng) for _ in range(2)]
    for _ in range(int(70 * width)):
        px, py = x + width * rng.random(), y - 0.10 + rng.normal(0, 0.07)
        canvas.ellipse(
            px,
            py,
            rng.uniform(0.02, 0.05),
            0.018,
            pick_color(LEAF_COLORS, rng),
            rng.uniform(0, 180),
        )
    for _ in range(int(26 * width)):
        px, py = x + width * rng.random(), y - 0.12 + rng.normal(0, 0.06)
        size = rng.uniform(0.018, 0.035)
        canvas.ellipse(px, py, size, size, pick_color(blooms, rng))


def _draw_goods(
    canvas: Canvas, hole: Opening, base: float, height: float, rng: np.random.Generator
) -> None:
    x = hole.x + 0.04
    while x < hole.x + hole.width - 0.15:
        width, tall = rng.uniform(0.05, 0.16), height * rng.uniform(0.45, 0.95)
        r, g, b = rng.uniform(0.2, 0.9, 3)
        canvas.rectangle(x, base - tall, width, tall, (r, g, b))
        canvas.rectangle(x, base - 0.7 * tall, width, 0.25 * tall, tuple(rng.uniform(0.3, 1, 3)))
        canvas.shade(box_points(x + 0.75 * width, base - tall, 0.25 * width, tall), 0.6)
        x += width + rng.uniform(0.0, 0.06)
