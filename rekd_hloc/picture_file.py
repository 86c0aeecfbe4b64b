"""Writing pictures, whole or not at all."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from rekd_hloc.files import write_bytes

JPEG_QUALITY = 85


def encode_image(pixels: UInt8[np.ndarray, "..."], suffix: str) -> bytes:
    """The bytes of an image file.

    Args:
        pixels: RGB of shape (height, width, 3), or grey of shape (height, width).
        suffix: the kind of file, like ``.png``.

    Raises:
        ValueError: an empty picture, or a kind that cannot be written.
    """
    swapped = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    is_jpeg = suffix.lower() in (".jpg", ".jpeg")
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if is_jpeg else []
    try:
        done, data = cv2.imencode(suffix, np.ascontiguousarray(swapped), options)
    except cv2.error as error:
        raise ValueError(f"cannot write a picture {pixels.shape} as {suffix!r}") from error
    assert done  # failures raise
    return data.tobytes()


def write_image(path: Path, pixels: UInt8[np.ndarray, "..."]) -> None:
    """Write a picture, making its folder; the ending names the kind.

    Raises:
        ValueError: as :func:`encode_image`.
        OSError: the file cannot be written, or the disk is full.
    """
    write_bytes(path, encode_image(pixels, path.suffix))
