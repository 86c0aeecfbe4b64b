"""Colours of the points of a model whose images COLMAP cannot read: HEIC, AVIF, WebP, JPEG 2000.

COLMAP colours the points that it sees in images of other kinds. What it leaves black gets the mean
of the colours at its keypoints, as COLMAP would have given it.
"""

from collections import defaultdict
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from rekd_hloc.image_decoding import ImageReadError
from rekd_hloc.images import read_color

READ_BY_COLMAP = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".tif", ".tiff", ".bmp", ".tga"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
    )
)
"""Endings of images that every pycolmap reads."""


def color_black_points(model: Any, image_dir: Path) -> None:
    """Give colours to points that are black, where images show them that COLMAP does not read.

    Args:
        model: ``pycolmap.Reconstruction``; it is changed.
        image_dir: of its images; one that is missing or damaged gives no colour.
    """
    images = [model.images[i] for i in model.reg_image_ids()]
    strange = [i for i in images if PurePath(i.name).suffix.lower() not in READ_BY_COLMAP]
    if not strange:
        return
    black = {i for i, point in model.points3D.items() if not np.any(point.color)}
    seen: dict[int, list[Float64[np.ndarray, " channel"]]] = defaultdict(list)
    for image in strange:
        points = [p for p in image.points2D if p.has_point3D() and p.point3D_id in black]
        path = image_dir / image.name
        if not points or not path.is_file():
            continue
        try:
            pixels = read_color(path)
        except (ImageReadError, OSError, MemoryError):
            continue
        colors = _sample(pixels, np.array([p.xy for p in points], dtype=np.float64) - 0.5)
        for point, color in zip(points, colors, strict=True):
            seen[point.point3D_id].append(color)
    for point_id, shown in seen.items():
        model.points3D[point_id].color = np.rint(np.mean(shown, axis=0)).astype(np.uint8)


def _sample(
    pixels: UInt8[np.ndarray, "height width 3"], xy: Float64[np.ndarray, "point 2"]
) -> Float64[np.ndarray, "point 3"]:
    """Return colours between pixels; (0, 0) is the centre of the first one."""
    height, width = pixels.shape[:2]
    xy = np.clip(xy, 0, (width - 1, height - 1))
    low = np.minimum(np.floor(xy).astype(np.int64), (max(width - 2, 0), max(height - 2, 0)))
    high = np.minimum(low + 1, (width - 1, height - 1))
    (u, v), (x0, y0), (x1, y1) = (xy - low).T[..., None], low.T, high.T
    top = (1 - u) * pixels[y0, x0] + u * pixels[y0, x1]
    bottom = (1 - u) * pixels[y1, x0] + u * pixels[y1, x1]
    return np.asarray((1 - v) * top + v * bottom, dtype=np.float64)
