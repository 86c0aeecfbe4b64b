"""Reading images of every kind a user has, making them smaller, and writing them.

The pixel grid is the file's own, as for COLMAP and hloc: the orientation that a camera noted in
EXIF is applied on request only. An image of 8 bits is read as it is. Any other is read between a
black and a white of its own, which :func:`rekd_hloc.value_range.find_value_range` gives.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from rekd_hloc.files import write_bytes
from rekd_hloc.geometry import resize_matrix
from rekd_hloc.image_decoding import MAX_PIXELS, DecodedImage, ImageReadError, decode
from rekd_hloc.image_orientation import from_file_grid
from rekd_hloc.types import Features
from rekd_hloc.value_range import ValueRange, find_value_range, is_number

__all__ = [
    "MAX_PIXELS",
    "ImageReadError",
    "LoadedImage",
    "encode_image",
    "load_image",
    "load_mask",
    "read_color",
    "read_image",
    "read_mask",
    "shrink",
    "write_image",
]

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601 weights of red, green and blue, as in OpenCV and hloc."""
JPEG_QUALITY = 85


@dataclass(frozen=True)
class LoadedImage:
    """Hold an image with what its file says about it.

    Attributes:
        pixels: grey in 0..1, or RGB bytes.
        usable: (height, width), False where there is no picture: full transparency, values that
            are no numbers, or that the file declares to be none. None if all pixels are usable.
        value_range: the values that became black and white; None for an image of 8 bits.
        orientation: EXIF's, 1 to 8: how to rotate and mirror the file's grid to see it upright.
        reduction: pixels of the file for one here, along each side.
        file_size: (width, height) of the file where it was reduced.
    """

    pixels: Float[Tensor, "height width"] | UInt8[np.ndarray, "height width 3"]
    usable: NDArray[np.bool_] | None
    value_range: ValueRange | None
    orientation: int
    reduction: int = 1
    file_size: tuple[int, int] | None = None

    def in_file(self, features: Features) -> Features:
        """Return features of ``pixels`` in pixels of the file; the upper left corners coincide."""
        if self.file_size is None:
            return features
        keypoints, factor = features.keypoints, self.reduction
        return replace(
            features,
            keypoints=replace(
                keypoints,
                xy=((keypoints.xy.double() + 0.5) * factor - 0.5).float(),
                scale=keypoints.scale * factor,
            ),
            image_size=self.file_size,
        )


def load_image(path: Path, *, color: bool = False, enough_px: int = 0) -> LoadedImage:
    """Return grey values or colours in the file's grid, and what the file says about them.

    Args:
        path: of the file.
        color: whether to return colours.
        enough_px: a large JPEG may be decoded smaller, its longer side no shorter than this; see
            :func:`rekd_hloc.image_decoding.decode`.

    Raises:
        FileNotFoundError, PermissionError: there is no such file, or it may not be read.
        ImageReadError: it is empty, damaged, not an image, or larger than ``MAX_PIXELS``.
    """
    decoded = decode(path, enough_px=enough_px)
    scaled = _scale(decoded, color)
    return replace(scaled, reduction=decoded.reduction, file_size=decoded.file_size)


def load_mask(path: Path) -> tuple[NDArray[np.bool_], int]:
    """Return a mask as :func:`read_mask`, and the orientation that its own EXIF says, 1 to 8.

    Raises:
        FileNotFoundError, PermissionError, ImageReadError: as :func:`load_image`.
    """
    decoded = decode(path)
    used = decoded.values > 0
    used = np.asarray(used.any(axis=2) if used.ndim == 3 else used)
    return used if decoded.has_value is None else used & decoded.has_value, decoded.orientation


def read_image(path: Path, *, apply_exif: bool = False) -> Float[Tensor, "height width"]:
    """Return grey values in 0..1.

    Args:
        path: a file of any depth, with or without colour, palette or alpha, which is dropped.
        apply_exif: rotate the image upright by its EXIF orientation. COLMAP and hloc do not, so
            keypoints that go there must not either.

    Raises:
        FileNotFoundError, PermissionError, ImageReadError: as :func:`load_image`.
    """
    image = load_image(path)
    assert isinstance(image.pixels, Tensor)
    if not apply_exif or image.orientation == 1:
        return image.pixels
    return torch.from_numpy(from_file_grid(image.pixels.numpy(), image.orientation))


def read_color(path: Path, *, apply_exif: bool = False) -> UInt8[np.ndarray, "height width 3"]:
    """RGB bytes; grey images have three equal channels.

    Raises:
        FileNotFoundError, PermissionError, ImageReadError: as :func:`load_image`.
    """
    image = load_image(path, color=True)
    assert isinstance(image.pixels, np.ndarray)
    return from_file_grid(image.pixels, image.orientation) if apply_exif else image.pixels


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Read a mask as COLMAP does: True where a pixel may be used, False where the file is zero.

    False as well where the mask is fully transparent, whatever colour lies there.

    Raises:
        FileNotFoundError, PermissionError, ImageReadError: as :func:`load_image`.
    """
    return load_mask(path)[0]


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


def _scale(decoded: DecodedImage, color: bool) -> LoadedImage:
    values, usable = decoded.values, decoded.has_value
    if values.dtype == np.uint8:
        pixels = _color_bytes(values) if color else _grey(values, ValueRange(0.0, 255.0))
        return LoadedImage(pixels, usable, None, decoded.orientation)
    numbers = is_number(values)
    if numbers is not None:
        usable = numbers if usable is None else usable & numbers
    limits = find_value_range(values, usable)
    if numbers is not None:
        values = np.where(numbers if values.ndim == 2 else numbers[..., None], values, limits.fill)
    pixels = _rounded_color(values, limits) if color else _grey(values, limits)
    return LoadedImage(pixels, usable, limits, decoded.orientation)


def _grey(values: NDArray[Any], limits: ValueRange) -> Tensor:
    planes = [values] if values.ndim == 2 else np.moveaxis(values, 2, 0)
    weights = (1.0,) if values.ndim == 2 else LUMA
    grey = np.zeros(values.shape[:2], dtype=np.float32)
    for plane, weight in zip(planes, weights, strict=True):  # no float copy of all colours at once
        grey += _above_black(plane, limits) * np.float32(weight / limits.span)
    return torch.from_numpy(np.clip(grey, 0.0, 1.0, out=grey))


def _above_black(values: NDArray[Any], limits: ValueRange) -> NDArray[Any]:
    if limits.black == 0.0:
        return values
    exact = np.result_type(values.dtype, np.float32)
    above: NDArray[Any] = np.subtract(values, limits.black, dtype=exact)
    return above


def _rounded_color(values: NDArray[Any], limits: ValueRange) -> NDArray[np.uint8]:
    scaled = _above_black(values, limits) * np.float32(255.0 / limits.span)
    return _color_bytes(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))


def _color_bytes(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rgb = np.repeat(values[..., None], 3, axis=2) if values.ndim == 2 else values
    return np.ascontiguousarray(rgb)
