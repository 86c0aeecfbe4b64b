"""Noise with structure at every scale, the base of all procedural textures."""

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Field = NDArray[np.float32]


def fractal_noise(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    coarsest_px: float,
    finest_px: float = 1.0,
    roughness: float = 0.6,
    stretch: float = 1.0,
) -> Field:
    """Octaves of smooth noise, of mean 0 and standard deviation 1, shape (height, width).

    Args:
        shape: (height, width).
        rng: drawn from.
        coarsest_px: cell of the first octave; every next one has half of it.
        finest_px: smallest cell.
        roughness: amplitude of an octave over that of the one before.
        stretch: how much longer cells are in y than in x.
    """
    height, width = shape
    total = np.zeros(shape, np.float32)
    cell, amplitude = float(coarsest_px), 1.0
    while cell >= finest_px:
        rows = max(int(np.ceil(height / (cell * stretch))), 1) + 3
        columns = max(int(np.ceil(width / cell)), 1) + 3
        grid = rng.standard_normal((rows, columns), dtype=np.float32)
        total += amplitude * _enlarge(grid, shape, (cell, cell * stretch), rng)
        cell, amplitude = cell / 2.0, amplitude * roughness
    total -= total.mean()
    spread = float(total.std())
    return total / spread if spread > 0 else total


def _enlarge(
    grid: Field, shape: tuple[int, int], cell: tuple[float, float], rng: np.random.Generator
) -> Field:
    """The grid with one node each cell, at a random shift so that octaves do not line up."""
    shift = 1.0 + rng.random(2)
    grid_from_image = np.array([[1.0 / cell[0], 0.0, shift[0]], [0.0, 1.0 / cell[1], shift[1]]])
    large = cv2.warpAffine(
        grid,
        grid_from_image,
        (shape[1], shape[0]),
        flags=(cv2.INTER_CUBIC if cell[0] > 4 else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return np.asarray(large, dtype=np.float32)


def smooth_step(value: Field, low: float, high: float) -> Field:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), dtype=np.float32)


def blend(below: Field, above: Field, weight: Field) -> Field:
    """``above`` laid over ``below``; all of shape (height, width, 3) or broadcast to it."""
    return np.asarray(below + (above - below) * weight, dtype=np.float32)


def to_bytes(values: Field) -> Image:
    """0..1 becomes 0..255."""
    return np.asarray(np.clip(values * 255.0 + 0.5, 0, 255), dtype=np.uint8)


def to_floats(image: Image) -> Field:
    """0..255 becomes 0..1."""
    return np.asarray(image, dtype=np.float32) / np.float32(255.0)
