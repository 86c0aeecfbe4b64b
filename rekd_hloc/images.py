"""Reading images of every kind a user has, making them smaller, and writing them.

Files are decoded by Pillow: it says so when a file is damaged instead of returning half of it. The
pixel grid is the file's own, as for COLMAP and hloc: the orientation that a camera noted in EXIF is
applied on request only. Alpha is dropped, ink (CMYK) and palettes become light.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from rekd_hloc.files import write_bytes
from rekd_hloc.geometry import resize_matrix

logger = logging.getLogger(__name__)

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601 weights of red, green and blue, as in OpenCV and hloc."""
JPEG_QUALITY = 85
MAX_PIXELS = 178_956_970
"""Pillow refuses larger files: a damaged header can claim any size."""


class ImageReadError(ValueError):
    """A file that holds no readable image; the message names the file and the reason."""


def read_image(path: Path, *, apply_exif: bool = False) -> Float[Tensor, "height width"]:
    """Return grey values in 0..1.

    Args:
        path: a file of any depth, with or without colour, palette or alpha.
        apply_exif: rotate the image upright by its EXIF orientation. COLMAP and hloc do not, so
            keypoints that go there must not either.

    Raises:
        FileNotFoundError, PermissionError: there is no such file, or it may not be read.
        ImageReadError: it is empty, damaged, not an image, or larger than ``MAX_PIXELS``.
    """
    values, white = _decode(path, apply_exif)
    planes = [values] if values.ndim == 2 else np.moveaxis(values, 2, 0)
    weights = (1.0,) if values.ndim == 2 else LUMA
    grey = np.zeros(values.shape[:2], dtype=np.float32)
    for plane, weight in zip(planes, weights, strict=True):  # no float copy of all colours at once
        grey += plane * np.float32(weight / white)
    return torch.from_numpy(np.clip(grey, 0.0, 1.0, out=grey))


def read_color(path: Path, *, apply_exif: bool = False) -> UInt8[np.ndarray, "height width 3"]:
    """RGB bytes; grey images have three equal channels.

    Raises:
        FileNotFoundError, PermissionError, ImageReadError: as :func:`read_image`.
    """
    values, white = _decode(path, apply_exif)
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=2)
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    rgb = np.clip(np.rint(values * np.float32(255.0 / white)), 0, 255)
    return np.asarray(rgb, dtype=np.uint8)


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Read a mask as COLMAP does: True where a pixel may be used, False where the file is zero.

    Raises:
        FileNotFoundError, PermissionError, ImageReadError: as :func:`read_image`.
    """
    values, _ = _decode(path, apply_exif=False)
    used = values > 0
    return np.asarray(used.any(axis=2) if used.ndim == 3 else used)


def shrink(
    grey: Float[Tensor, "height width"], max_side_px: int
) -> tuple[Float[Tensor, "small_height small_width"], Float[Tensor, "3 3"]]:
    """Return the image with its longer side at most ``max_side_px``, and ``small_from_image``.

    Pixel areas are averaged, so fine texture does not alias. 0 keeps every size.
    """
    height, width = grey.shape
    if max_side_px <= 0 or max(height, width) <= max_side_px:
        return grey, torch.eye(3, dtype=torch.float64)
    factor = max_side_px / max(height, width)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    small = cv2.resize(grey.cpu().numpy(), size, interpolation=cv2.INTER_AREA)
    small_grey = torch.from_numpy(np.asarray(small, dtype=np.float32)).reshape(size[1], size[0])
    return small_grey.to(grey.device), resize_matrix((width, height), size)


def encode_image(pixels: UInt8[np.ndarray, "..."], suffix: str) -> bytes:
    """Return the bytes of an image file.

    Args:
        pixels: RGB of shape (height, width, 3), or grey of shape (height, width).
        suffix: the kind of file, like ``.png``.

    Raises:
        ValueError: an empty image, or a kind that cannot be written.
    """
    swapped = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    is_jpeg = suffix.lower() in (".jpg", ".jpeg")
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if is_jpeg else []
    try:
        done, data = cv2.imencode(suffix, np.ascontiguousarray(swapped), options)
    except cv2.error as error:
        raise ValueError(f"cannot write an image {pixels.shape} as {suffix!r}") from error
    assert done  # failures raise
    return data.tobytes()


def write_image(path: Path, pixels: UInt8[np.ndarray, "..."]) -> None:
    """Write an image file, making its folder; the ending names the kind.

    Raises:
        ValueError: as :func:`encode_image`.
        OSError: the file cannot be written, or the disk is full.
    """
    write_bytes(path, encode_image(pixels, path.suffix))


def _decode(path: Path, apply_exif: bool) -> tuple[NDArray[Any], float]:
    """Return values of shape (height, width) or (height, width, 3), and the value that is white."""
    if not path.is_file():
        raise FileNotFoundError(f"no image file {path}")
    if path.stat().st_size == 0:
        raise ImageReadError(f"cannot read {path}: the file is empty")
    try:
        image, is_deep = _load(path, apply_exif)
        if is_deep and image.mode.startswith("RGB") and not apply_exif:
            deep = _decode_by_opencv(path)  # Pillow keeps 8 bits of 16
            if deep is not None:
                return deep
        return _to_array(image)
    except UnidentifiedImageError as error:
        exotic = _decode_by_opencv(path) if path.suffix.lower() in (".tif", ".tiff") else None
        if exotic is None:
            raise ImageReadError(f"cannot read {path}: not an image, or a damaged one") from error
        return exotic
    except ImageReadError as error:
        raise ImageReadError(f"cannot read {path}: {error}") from error


def _load(path: Path, apply_exif: bool) -> tuple[Image.Image, bool]:
    """Return the decoded image, and whether its file has 16 bits for each value."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of size and odd metadata; both are ours
            with Image.open(path) as image:
                is_deep = any(";16" in str(tile[3]) for tile in image.tile)
                image.load()
                return ImageOps.exif_transpose(image) if apply_exif else image, is_deep
    except Image.DecompressionBombError as error:
        raise ImageReadError(f"claims more than {MAX_PIXELS // 10**6} megapixels") from error
    except (UnidentifiedImageError, PermissionError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise whatever their parsing meets
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageReadError(reason) from error


def _to_array(image: Image.Image) -> tuple[NDArray[Any], float]:
    mode = image.mode
    if mode.startswith("I"):
        return _whole_numbers(np.asarray(image))
    if mode == "F":
        values = np.nan_to_num(np.asarray(image), posinf=0.0, neginf=0.0)
        return values, 1.0 if values.max(initial=0.0) <= 1.0 else 255.0
    if mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("L")), 255.0
    if mode in ("RGBA", "RGBa", "P", "PA"):  # alpha is dropped, not laid over a colour
        image = image.convert("RGBA")
    try:
        return np.asarray(image.convert("RGB")), 255.0
    except ValueError as error:
        raise ImageReadError(f"colours of kind {mode}: {error}") from error


def _whole_numbers(values: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """16-bit grey, which comes in 32 bits too; what needs more than 16 is scaled to its maximum."""
    return values, max(65535.0, float(values.max(initial=0)))


def _decode_by_opencv(path: Path) -> tuple[NDArray[Any], float] | None:
    """16 bits a colour, and TIFF of kinds that Pillow does not know; None if OpenCV does neither.

    OpenCV returns what it could make of a damaged file, so Pillow comes first where it can.
    """
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    with _quiet_opencv():
        try:
            image = cv2.imdecode(np.fromfile(path, dtype=np.uint8), flags)
        except cv2.error:
            return None
    if image is None:
        return None
    white = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}.get(image.dtype, 1.0)
    return np.asarray(image[..., ::-1]), white


@contextlib.contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Return no lines on stderr about a damaged file: the caller reports it."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
