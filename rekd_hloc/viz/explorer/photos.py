"""Small copies of all photos that fit into a page together."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from rekd_hloc.images import ImageReadError, read_color
from rekd_hloc.storage.names import check_name
from rekd_hloc.viz.templates import Picture

ALL_BYTES = 1_350_000
"""Of all copies together; a third more in the page."""
MOST_BYTES = 90_000
"""Of one copy, however few there are."""
SIDES_PX = (960, 800, 640, 512, 400, 320, 240, 160, 96, 48)
"""Longer sides that are tried, from the largest to the first that fits."""
QUALITY = 60

RgbImage = UInt8[np.ndarray, "height width 3"]


def shrink_photos(image_dir: Path, names: Sequence[str]) -> dict[str, tuple[str, tuple[int, int]]]:
    """Return the address of a small copy, and (width, height) of the file, of each readable photo.

    Args:
        image_dir: folder of the photos.
        names: of the photos; one that leads out of the folder is left out.
    """
    allowance = min(MOST_BYTES, ALL_BYTES // max(len(names), 1))
    copies = {}
    start = 0
    for name in names:
        image = _read(image_dir, name)
        if image is None:
            continue
        data, start = _encode(image, allowance, max(start - 1, 0))
        copies[name] = Picture(data, "jpeg", name).url, (image.shape[1], image.shape[0])
    return copies


def _encode(image: RgbImage, allowance: int, start: int) -> tuple[bytes, int]:
    """Return the largest copy within the allowance, or the smallest; and which side it has."""
    data = b""
    for number in range(start, len(SIDES_PX)):
        factor = min(1.0, SIDES_PX[number] / max(image.shape[:2]))
        size = max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1)
        small = image if factor == 1.0 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        done, code = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        assert done  # failures raise
        data = code.tobytes()
        if len(data) <= allowance:
            return data, number
    return data, len(SIDES_PX) - 1


def _read(image_dir: Path, name: str) -> RgbImage | None:
    with suppress(FileNotFoundError, ImageReadError, ValueError):
        check_name(name)  # no picture from outside of the folder
        return read_color(image_dir / name)
    return None
