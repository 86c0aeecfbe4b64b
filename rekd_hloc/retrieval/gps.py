"""Where photos were taken, as EXIF says, and which were taken nearest to one another."""

import contextlib
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from rekd_hloc.image_kinds import register_heif

EARTH_RADIUS_M = 6_371_000.0
BLOCK_ROWS = 256
"""Images whose distances to all others are held at once."""


def read_positions(image_dir: Path, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return latitude and longitude in degrees of the images whose EXIF has them."""
    found = {name: read_position(image_dir / name) for name in names}
    return {name: position for name, position in found.items() if position is not None}


def read_position(path: Path) -> tuple[float, float] | None:
    """Return latitude and longitude of a photo in degrees, north and east positive.

    None where EXIF has no position, or a damaged one, and where the file cannot be read; (0, 0) is
    what some cameras write without reception, and counts as none.
    """
    register_heif()
    tags: Mapping[int, Any] = {}
    with contextlib.suppress(Exception), warnings.catch_warnings():  # Pillow raises whatever it met
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            if image.format != "PNG" or "exif" in image.info:  # else Pillow decodes all pixels
                tags = image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
    latitude = _degrees(tags, ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef, 90)
    longitude = _degrees(tags, ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef, 180)
    if latitude is None or longitude is None or (latitude, longitude) == (0, 0):
        return None
    return latitude, longitude


def nearest_positions(
    positions: Mapping[str, tuple[float, float]], count: int
) -> dict[str, list[str]]:
    """Return for each image those that were taken nearest to it, the nearest first.

    Args:
        positions: latitude and longitude in degrees. Altitudes play no part, as in COLMAP.
        count: of images for each.

    Raises:
        ValueError: ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"gps needs at least 1 image for each, got {count}")
    names = list(positions)
    points = _on_the_globe(np.radians(np.array(list(positions.values())).reshape(-1, 2)))
    found: dict[str, list[str]] = {}
    for begin in range(0, len(names), BLOCK_ROWS):
        block = points[begin : begin + BLOCK_ROWS]
        distance = np.sum((block[:, None] - points[None]) ** 2, axis=2)
        rows = np.arange(len(block))
        distance[rows, begin + rows] = np.inf
        order = np.argsort(distance, axis=1, kind="stable")[:, : min(count, len(names) - 1)]
        for row, nearest in enumerate(order):
            found[names[begin + row]] = [names[other] for other in nearest]
    return found


def _on_the_globe(radians: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points in metres; straight distances order them as those along the ground do."""
    latitude, longitude = radians.T
    ring = np.cos(latitude)
    return EARTH_RADIUS_M * np.stack(
        (ring * np.cos(longitude), ring * np.sin(longitude), np.sin(latitude)), axis=1
    )


def _degrees(tags: Mapping[int, Any], key: int, reference: int, most: float) -> float | None:
    with contextlib.suppress(Exception):  # whatever a damaged tag holds
        degrees, minutes, seconds = (float(part) for part in tags[key])
        value = degrees + minutes / 60 + seconds / 3600
        sign = -1.0 if str(tags.get(reference, "")).strip("\x00 ").upper() in ("S", "W") else 1.0
        if math.isfinite(value) and 0 <= value <= most:
            return sign * value
    return None
