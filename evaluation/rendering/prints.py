"""Posters, signs and graffiti: flat pictures with words and shapes, each different."""

import cv2
import numpy as np

from evaluation.rendering.canvas import FONTS, Canvas, pick_color, scale_color
from evaluation.rendering.masonry import Color
from evaluation.rendering.noise import Image, fractal_noise, to_bytes, to_floats

WORDS = (
    "CIRCUS",
    "JAZZ",
    "MARKET",
    "OPERA",
    "FLOWERS",
    "COFFEE",
    "BAKERY",
    "THEATRE",
    "SUMMER",
    "NIGHT",
    "RIVER",
    "GARDEN",
    "BOOKS",
    "CINEMA",
    "FESTIVAL",
    "ORCHESTRA",
    "PAINTING",
    "HARBOUR",
    "BICYCLE",
    "ISLAND",
    "MUSEUM",
    "DANCE",
    "LANTERN",
    "CARNIVAL",
    "SATURDAY",
    "COMPASS",
    "VIOLIN",
    "TRAVEL",
    "CHESS",
    "ORANGE",
    "KITE",
    "MIRROR",
    "WINTER",
    "VELVET",
    "PUPPETS",
    "AURORA",
)
BRIGHT: tuple[Color, ...] = (
    (0.85, 0.20, 0.16),
    (0.95, 0.75, 0.20),
    (0.13, 0.35, 0.60),
    (0.10, 0.50, 0.42),
    (0.93, 0.90, 0.82),
    (0.55, 0.20, 0.45),
    (0.95, 0.50, 0.20),
    (0.15, 0.15, 0.18),
    (0.40, 0.65, 0.80),
)
PX_PER_METRE = 400.0


def print_poster(width_m: float, height_m: float, rng: np.random.Generator) -> Image:
    """A poster with a picture, a title and small print; worn and faded.

    Args:
        width_m: width in metres.
        height_m: height in metres.
        rng: drawn from.
    """
    shape = (round(height_m * PX_PER_METRE), round(width_m * PX_PER_METRE))
    ground = pick_color(BRIGHT, rng)
    fade = np.linspace(rng.uniform(0.7, 1.0), rng.uniform(0.8, 1.15), shape[0], dtype=np.float32)
    canvas = Canvas(
        np.clip(
            np.asarray(ground, np.float32) * np.ones((*shape, 3), np.float32) * fade[:, None, None],
            0,
            1,
        ),
        PX_PER_METRE,
    )
    ink = _contrast(ground)
    picture_height = height_m * rng.uniform(0.45, 0.6)
    top = height_m * rng.choice([0.06, 0.28])
    _draw_picture(canvas, (width_m * 0.08, top, width_m * 0.84, picture_height), rng)
    title_y = height_m * 0.05 if top > 0.2 * height_m else top + picture_height + height_m * 0.03
    font = FONTS[int(rng.integers(len(FONTS)))]
    title = str(rng.choice(WORDS))
    canvas.write(title, width_m * 0.06, title_y, width_m * 0.88, height_m * 0.16, ink, font)
    _draw_small_print(canvas, max(title_y + height_m * 0.18, top + picture_height), ink, rng)
    if rng.random() < 0.5:
        _draw_frame(canvas, pick_color(BRIGHT, rng))
    return _wear(canvas.image, rng)


def paint_sign(text: str, width_m: float, height_m: float, rng: np.random.Generator) -> Image:
    """A painted board with a frame and one line of text."""
    shape = (round(height_m * PX_PER_METRE), round(width_m * PX_PER_METRE))
    ground = pick_color(BRIGHT, rng)
    canvas = Canvas(np.ones((*shape, 3), np.float32) * np.asarray(ground, np.float32), PX_PER_METRE)
    _draw_frame(canvas, _contrast(ground))
    ink = _contrast(ground)
    box = (width_m * 0.06, height_m * 0.14, width_m * 0.88, height_m * 0.72)
    font = FONTS[int(rng.integers(len(FONTS)))]
    drop = height_m * 0.03
    canvas.write(text, box[0] + drop, box[1] + drop, *box[2:], scale_color(ground, 0.4), font)
    canvas.write(text, *box, ink, font)
    return _wear(canvas.image, rng)


def spray_graffiti(
    canvas: Canvas, x: float, y: float, width: float, height: float, rng: np.random.Generator
) -> None:
    """Thick outlined strokes over whatever the canvas shows."""
    fill, rim = pick_color(BRIGHT, rng), pick_color(BRIGHT, rng)
    strokes = []
    for k in range(int(rng.integers(4, 7))):
        t = np.linspace(0, 1, 24)
        phase, bend = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.6, 2.2, 2)
        cx = x + width * (k + 0.5) / 6
        px = cx + 0.16 * width * np.sin(2 * np.pi * bend[0] * t + phase[0])
        py = y + height * (0.5 + 0.45 * np.sin(np.pi * bend[1] * t + phase[1]))
        strokes.append(np.stack([px, py], axis=1))
    thick = 0.13 * height
    for color, extra in ((rim, 1.0), (fill, 0.6)):
        for stroke in strokes:
            canvas.line(stroke, color, thick * extra)
    for stroke in strokes[::2]:
        canvas.line(stroke[3:12] - 0.02 * height, (0.97, 0.97, 0.95), 0.12 * thick)


def _draw_picture(
    canvas: Canvas, box: tuple[float, float, float, float], rng: np.random.Generator
) -> None:
    x, y, width, height = box
    canvas.rectangle(x, y, width, height, pick_color(BRIGHT, rng))
    sun = 0.12 * width + 0.18 * width * rng.random()
    canvas.ellipse(
        x + width * rng.uniform(0.3, 0.7), y + height * 0.4, sun, sun, pick_color(BRIGHT, rng)
    )
    for depth in range(int(rng.integers(2, 5))):
        t = np.linspace(0, 1, 16)
        waves = 0.1 * np.sin(2 * np.pi * (rng.uniform(0.6, 2.5) * t + rng.random()))
        ridge = np.clip(0.45 + 0.14 * depth + waves + 0.03 * rng.standard_normal(16), 0.02, 0.98)
        points = [(x + width * a, y + height * b) for a, b in zip(t, ridge, strict=True)]
        canvas.fill([*points, (x + width, y + height), (x, y + height)], pick_color(BRIGHT, rng))
    for _ in range(int(rng.integers(4, 10))):
        size = width * rng.uniform(0.04, 0.14)
        cx, cy = x + width * rng.uniform(0.15, 0.85), y + height * rng.uniform(0.2, 0.85)
        if rng.random() < 0.5:
            angle = rng.uniform(0, 180)
            canvas.ellipse(cx, cy, size, size * rng.uniform(0.3, 1), pick_color(BRIGHT, rng), angle)
        else:
            corners = int(rng.integers(3, 7))
            t = np.sort(rng.uniform(0, 2 * np.pi, corners))
            points_xy = np.stack([cx + size * np.cos(t), cy + size * np.sin(t)], axis=1)
            canvas.fill(points_xy, pick_color(BRIGHT, rng))


def _draw_small_print(canvas: Canvas, y: float, ink: Color, rng: np.random.Generator) -> None:
    width, height = canvas.size_m
    line = height * 0.045
    while y + line < height * 0.96:
        words = " ".join(rng.choice(WORDS, int(rng.integers(2, 5)))).lower()
        text = f"{words} {rng.integers(1, 31)}.{rng.integers(1, 13)}."
        share = rng.uniform(0.5, 0.85)
        canvas.write(text, width * 0.08, y, width * share, line * 0.85, ink)
        y += line * rng.uniform(1.3, 1.8)


def _draw_frame(canvas: Canvas, color: Color) -> None:
    width, height = canvas.size_m
    bar = 0.025 * min(width, height)
    for inset in (0.4 * bar, 2.0 * bar):
        points = [
            (inset, inset),
            (width - inset, inset),
            (width - inset, height - inset),
            (inset, height - inset),
            (inset, inset),
        ]
        canvas.line(points, color, bar)
        bar *= 0.4


def _wear(image: Image, rng: np.random.Generator) -> Image:
    shape = (image.shape[0], image.shape[1])
    crease = fractal_noise(shape, rng, coarsest_px=shape[1] / 2, finest_px=4, roughness=0.7)
    light = np.clip(1.0 + 0.05 * crease, 0.6, 1.3)[..., None]
    worn = to_floats(image) * 0.88 + 0.06
    return np.asarray(cv2.GaussianBlur(to_bytes(worn * light), (0, 0), 0.6), dtype=np.uint8)


def _contrast(ground: Color) -> Color:
    dark = float(np.asarray(ground) @ np.array((0.3, 0.59, 0.11))) < 0.5
    return (0.96, 0.94, 0.86) if dark else (0.10, 0.09, 0.12)
