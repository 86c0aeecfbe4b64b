"""A surface to paint on, in metres, with anti-aliased edges."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.rendering.masonry import Color
from evaluation.rendering.noise import Field, Image, to_bytes

FONTS = (
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_SIMPLEX,
)
SUBPIXEL_BITS = 5
Points = NDArray[np.float64] | Sequence[tuple[float, float]]
CIRCLE = np.array([(math.cos(k * math.pi / 10), math.sin(k * math.pi / 10)) for k in range(20)])


class Canvas:
    """Paints on a texture. Places and sizes are metres from its upper left corner, y down.

    Args:
        texture: RGB in 0..1, shape (height, width, 3); copied.
        px_per_metre: resolution.
    """

    def __init__(self, texture: Field, px_per_metre: float) -> None:
        self.image: Image = to_bytes(texture)
        self.px_per_metre = px_per_metre

    @property
    def size_m(self) -> tuple[float, float]:
        """Width and height in metres."""
        height, width = self.image.shape[:2]
        return width / self.px_per_metre, height / self.px_per_metre

    def fill(self, points: Points, color: Color) -> None:
        """A polygon."""
        corners = self._fixed(points)
        cv2.fillPoly(
            self.image, [corners], _to_rgb(color), lineType=cv2.LINE_AA, shift=SUBPIXEL_BITS
        )

    def rectangle(self, x: float, y: float, width: float, height: float, color: Color) -> None:
        """A rectangle from its upper left corner."""
        self.fill(box_points(x, y, width, height), color)

    def ellipse(
        self,
        x: float,
        y: float,
        radius_x: float,
        radius_y: float,
        color: Color,
        angle_deg: float = 0.0,
    ) -> None:
        """An ellipse about its centre."""
        turn = math.radians(angle_deg)
        cos, sin = math.cos(turn), math.sin(turn)
        axes = np.array([(radius_x * cos, radius_x * sin), (-radius_y * sin, radius_y * cos)])
        self.fill(CIRCLE @ axes + (x, y), color)

    def line(self, points: Points, color: Color, width: float) -> None:
        """An open line through the points."""
        thickness = max(1, round(width * self.px_per_metre))
        cv2.polylines(
            self.image,
            [self._fixed(points)],
            False,
            _to_rgb(color),
            thickness,
            cv2.LINE_AA,
            SUBPIXEL_BITS,
        )

    def shade(self, points: Points, factor: float, softness: float = 0.0) -> None:
        """Multiply the brightness of a polygon, with an edge ``softness`` metres wide."""
        mask: Image = np.zeros(self.image.shape[:2], np.uint8)
        cv2.fillPoly(mask, [self._fixed(points)], (255,), cv2.LINE_AA, SUBPIXEL_BITS)
        if softness > 0:
            sigma = max(softness * self.px_per_metre, 0.3)
            mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), sigma), dtype=np.uint8)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows) == 0:
            return
        place = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        weight = 1.0 + (factor - 1.0) * mask[place][..., None].astype(np.float32) / 255.0
        self.image[place] = np.clip(self.image[place] * weight, 0, 255).astype(np.uint8)

    def write(
        self,
        text: str,
        x: float,
        y: float,
        width: float,
        height: float,
        color: Color,
        font: int = cv2.FONT_HERSHEY_DUPLEX,
    ) -> None:
        """One line of text, as large as fits into a box."""
        (full, ascent), _ = cv2.getTextSize(text, font, 4.0, 8)
        scale = 4.0 * self.px_per_metre * min(width / max(full, 1), height / max(ascent, 1))
        thickness = max(1, round(2.0 * scale))
        (drawn, ascent), _ = cv2.getTextSize(text, font, scale, thickness)
        left = x * self.px_per_metre + (width * self.px_per_metre - drawn) / 2
        base = y * self.px_per_metre + (height * self.px_per_metre + ascent) / 2
        place = (round(left), round(base))
        cv2.putText(self.image, text, place, font, scale, _to_rgb(color), thickness, cv2.LINE_AA)

    def paste(
        self, picture: Image, x: float, y: float, width: float, height: float, angle_deg: float = 0
    ) -> None:
        """Another picture, scaled to a rectangle and turned about that rectangle's centre."""
        size = (max(1, round(width * self.px_per_metre)), max(1, round(height * self.px_per_metre)))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        centre = ((x + width / 2) * self.px_per_metre, (y + height / 2) * self.px_per_metre)
        turn = cv2.getRotationMatrix2D(((size[0] - 1) / 2, (size[1] - 1) / 2), angle_deg, 1.0)
        matrix = np.asarray(turn, dtype=np.float64)
        matrix[:, 2] += np.array(centre) - (np.array(size) - 1) / 2
        canvas_size = (self.image.shape[1], self.image.shape[0])
        cv2.warpAffine(
            small, matrix, canvas_size, self.image, cv2.INTER_LINEAR, cv2.BORDER_TRANSPARENT
        )

    def _fixed(self, points: Points) -> NDArray[np.int32]:
        fine = np.asarray(points, dtype=np.float64) * (self.px_per_metre * 2**SUBPIXEL_BITS)
        return np.asarray(np.rint(fine - 0.5 * 2**SUBPIXEL_BITS), dtype=np.int32).reshape(-1, 1, 2)


def box_points(x: float, y: float, width: float, height: float) -> list[tuple[float, float]]:
    """Corners of a rectangle, clockwise from the upper left one."""
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]


def pick_color(colors: Sequence[Color], rng: np.random.Generator, spread: float = 0.04) -> Color:
    """One of the colours, a little changed."""
    base = colors[int(rng.integers(len(colors)))]
    change = rng.normal(0.0, spread, 3).tolist()
    r, g, b = (min(max(c + d, 0.0), 1.0) for c, d in zip(base, change, strict=True))
    return r, g, b


def scale_color(color: Color, factor: float) -> Color:
    """A colour made lighter or darker."""
    r, g, b = (min(channel * factor, 1.0) for channel in color)
    return r, g, b


def _to_rgb(color: Color) -> tuple[float, float, float]:
    r, g, b = (255.0 * channel for channel in color)
    return r, g, b
