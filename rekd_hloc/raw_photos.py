"""Photos as cameras take them from the sensor, developed by LibRaw: the extra ``raw``.

A photo comes in the sensor's own grid, with the orientation beside it, as a TIFF does; colours are
balanced as the camera did, and brightness is not adapted to the photo.
"""

import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ORIENTATION_OF_FLIP = {0: 1, 3: 3, 5: 8, 6: 6}
"""EXIF's number for what LibRaw says of how a camera was held."""


@functools.cache
def can_read_raw() -> bool:
    """Say whether rawpy, which brings LibRaw, is installed."""
    return importlib.util.find_spec("rawpy") is not None


def develop(path: Path) -> tuple[NDArray[np.uint8], int]:
    """Return a photo's colours, (height, width, 3) of 8 bits, and EXIF's orientation.

    Raises:
        ValueError: it is damaged, or of a camera that LibRaw does not know.
    """
    import rawpy

    try:
        with rawpy.imread(str(path)) as raw:
            orientation = ORIENTATION_OF_FLIP.get(raw.sizes.flip, 1)
            return raw.postprocess(
                use_camera_wb=True, no_auto_bright=True, user_flip=0
            ), orientation
    except rawpy.LibRawError as error:
        raise ValueError(_reason(error)) from error


def read_frame(path: Path) -> tuple[tuple[int, int], int]:
    """Return width and height in the sensor's grid, and EXIF's orientation, without developing.

    Raises:
        ValueError: as :func:`develop`.
    """
    import rawpy

    try:
        with rawpy.imread(str(path)) as raw:
            sizes = raw.sizes
            return (sizes.iwidth, sizes.iheight), ORIENTATION_OF_FLIP.get(sizes.flip, 1)
    except rawpy.LibRawError as error:
        raise ValueError(_reason(error)) from error


def read_exif(path: Path) -> Image.Exif:
    """Return the tags of a file that is built as a TIFF, as most cameras' are; else none."""
    exif = Image.Exif()
    with path.open("rb") as file:
        exif.load_from_fp(file)
        exif.get_ifd(0x8769)  # while the file is open
    return exif


def _reason(error: Any) -> str:
    text = error.args[0] if error.args else error
    text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    return f"camera raw that LibRaw cannot develop ({text}); develop it to JPEG or TIFF"
