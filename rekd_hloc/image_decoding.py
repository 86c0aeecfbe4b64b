"""From the bytes of an image file to its values, as they are stored.

Files are decoded by Pillow: it says so when a file is damaged instead of returning half of it.
OpenCV reads what Pillow does not: colours of more than 8 bits, and several kinds of TIFF. Alpha is
dropped, ink (CMYK) and palettes become light. HEIC is read if pillow-heif is installed; it comes
upright, since its rotation is a part of the file's own grid. Camera raw is read if rawpy is.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from rekd_hloc.image_kinds import explain_content, is_raw, register_heif
from rekd_hloc.names import printable
from rekd_hloc.raw_photos import can_read_raw, develop
from rekd_hloc.tiff_tags import ALPHAS, SIGNED, UNSIGNED, TiffTags, read_tiff_tags, read_unrotated

MAX_PIXELS = 178_956_970
"""Pillow refuses larger files: a damaged header can claim any size."""
ORIENTATION_TAG = 0x0112
"""Of EXIF, and of TIFF."""
JPEG = ("JPEG", "MPO")
"""Pillow's names of what can be decoded at a smaller size."""
REDUCTIONS = (2, 4, 8)
CAN_NAME_CLEAR = ("1", "L", "P", "RGB")
"""Modes of Pillow without alpha in which one colour, or some of a palette, can be transparent."""


class ImageReadError(ValueError):
    """A file that holds no readable image; the message names the file and the reason."""


@dataclass(frozen=True)
class DecodedImage:
    """Hold what is stored in an image file, in the file's own pixel grid.

    Attributes:
        values: (height, width), or (height, width, 3) in red, green and blue; bytes if the file
            has 8 bits, and any other numbers for any other depth.
        has_value: (height, width), False where a pixel is fully transparent, or holds what the
            file declares to be no value; None if there is no such pixel.
        orientation: what EXIF says, 1 to 8: how to rotate and mirror it to see it upright.
        reduction: pixels of the file for one of ``values``, along each side; the last ones of a row
            or column may stand for fewer.
        file_size: (width, height) of the file where it was reduced.
    """

    values: NDArray[Any]
    has_value: NDArray[np.bool_] | None = None
    orientation: int = 1
    reduction: int = 1
    file_size: tuple[int, int] | None = None


def decode(path: Path, *, enough_px: int = 0) -> DecodedImage:
    """Return the values of an image file.

    Args:
        path: of the file.
        enough_px: a JPEG whose longer side is twice as long or more is decoded to a half, quarter
            or eighth of its size, but no smaller than this; 0 takes every size as it is.

    Raises:
        FileNotFoundError, PermissionError: there is no such file, or it may not be read.
        ImageReadError: it is empty, damaged, not an image, or larger than ``MAX_PIXELS``.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no image file {printable(path)}")
    if path.stat().st_size == 0:
        raise ImageReadError(f"cannot read {printable(path)}: the file is empty")
    if is_raw(path.name) and can_read_raw():
        return _develop(path)
    tags = read_tiff_tags(path)
    try:
        if tags is None:
            return _decode(path, None, None, enough_px)
        is_rotated = tags.orientation != 1
        decoded = _decode(path, read_unrotated(path, tags) if is_rotated else None, tags)
    except UnidentifiedImageError as error:
        reason = _why_unidentified(path, tags)
        raise ImageReadError(f"cannot read {printable(path)}: {reason}") from error
    except ImageReadError as error:
        raise ImageReadError(f"cannot read {printable(path)}: {error}") from error
    if is_rotated:
        decoded = replace(decoded, orientation=tags.orientation)
    if tags.no_data is None or decoded.values.dtype == np.uint8:
        return decoded
    nothing: Any = tags.no_data
    if decoded.values.dtype.kind == "f":  # as rounded as the values are
        with np.errstate(over="ignore"):
            nothing = np.asarray(nothing).astype(decoded.values.dtype)
    return replace(decoded, has_value=_both(decoded.has_value, decoded.values != nothing))


def _develop(path: Path) -> DecodedImage:
    try:
        values, orientation = develop(path)
    except ValueError as error:
        raise ImageReadError(f"cannot read {printable(path)}: {error}") from error
    return DecodedImage(values, None, orientation)


def _why_unidentified(path: Path, tags: TiffTags | None) -> str:
    if tags is None:
        with path.open("rb") as file:
            kind = explain_content(file.read(12))
        return f"it is {kind}" if kind else "not an image, or a damaged one"
    if tags.bits <= 8:
        return "not an image, or a damaged one"
    return (
        f"a damaged TIFF, or one whose kind with {tags.bits} bits is not read; save it as grey or "
        "RGB with 8 or 16 bits, or with 32-bit floats"
    )


def _decode(
    path: Path, content: bytes | None, tags: TiffTags | None, enough_px: int = 0
) -> DecodedImage:
    """Return the image; ``content`` is there where it differs from that of the file."""
    try:
        image, orientation, is_deep, file_size = _load(path, content, enough_px)
    except UnidentifiedImageError:
        exotic = _decode_by_opencv(path, content, tags) if tags is not None else None
        if exotic is None:
            raise
        return exotic
    if is_deep and image.mode.startswith("RGB"):
        deep = _decode_by_opencv(path, content, tags)  # Pillow keeps 8 bits of 16
        if deep is not None:
            return replace(deep, orientation=orientation)
    values = _to_array(image)
    if tags is not None and tags.sample_format == UNSIGNED and values.dtype == np.int32:
        values = values.view(np.uint32)
    if tags is not None and tags.sample_format == SIGNED and values.dtype == np.uint8:
        values = values.view(np.int8)
    if image.size == file_size:
        return DecodedImage(values, _opaque(image), orientation)
    reduction = min(REDUCTIONS, key=lambda factor: abs(factor - file_size[0] / image.size[0]))
    return DecodedImage(values, _opaque(image), orientation, reduction, file_size)


def _load(
    path: Path, content: bytes | None, enough_px: int
) -> tuple[Image.Image, int, bool, tuple[int, int]]:
    """Return the decoded image, its orientation, if its file has 16 bits a value, and its size."""
    register_heif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of size and odd metadata; both are ours
            with Image.open(path if content is None else io.BytesIO(content)) as image:
                is_deep = any(";16" in str(tile[3]) for tile in image.tile)
                is_tiff = image.format == "TIFF"
                orientation = _take_orientation(image) if is_tiff else 1
                if getattr(image, "tag_v2", {}).get(ORIENTATION_TAG) in tuple(range(2, 9)):
                    raise ImageReadError("its orientation is no whole number")
                file_size = image.size
                if enough_px and image.format in JPEG:  # its draft is no smaller than asked for
                    share = enough_px / max(file_size)
                    image.draft(None, (round(file_size[0] * share), round(file_size[1] * share)))
                image.load()
                if not is_tiff:
                    orientation = _take_orientation(image)
                return image, orientation, is_deep, file_size
    except Image.DecompressionBombError as error:
        raise ImageReadError(f"claims more than {MAX_PIXELS // 10**6} megapixels") from error
    except (ImageReadError, UnidentifiedImageError, PermissionError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise whatever their parsing meets
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "out of memory" in reason:  # what libtiff and others say through Pillow
            raise MemoryError(reason) from error
        raise ImageReadError(reason) from error


def _take_orientation(image: Image.Image) -> int:
    """Return the orientation, and forget it: Pillow would rotate a TIFF when it loads it."""
    try:
        exif = image.getexif()
        orientation = exif.get(ORIENTATION_TAG, 1)
        if orientation != 1:
            exif[ORIENTATION_TAG] = 1
    except Exception:  # damaged EXIF; it raises whatever its parsing meets
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _to_array(image: Image.Image) -> NDArray[Any]:
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return np.asarray(image)
    if mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("L"))
    if mode in ("RGBA", "RGBa", "P", "PA"):  # alpha is dropped, not laid over a colour
        image = image.convert("RGBA")
    try:
        return np.asarray(image.convert("RGB"))
    except ValueError as error:
        raise ImageReadError(f"colours of kind {mode}: {error}") from error


def _opaque(image: Image.Image) -> NDArray[np.bool_] | None:
    """False where a pixel is fully transparent; None if none is."""
    clear = image.info.get("transparency")
    if image.mode.startswith("I") and isinstance(clear, int):
        return _both(None, np.asarray(image) != clear)
    if image.mode in ("LA", "RGBA"):
        layered = image
    elif image.mode == "La":
        layered = image.convert("LA")
    elif image.mode in ("RGBa", "PA") or (image.mode in CAN_NAME_CLEAR and clear is not None):
        layered = image.convert("RGBA")
    else:
        return None
    return _both(None, np.asarray(layered.getchannel("A")) > 0)


def _decode_by_opencv(
    path: Path, content: bytes | None, tags: TiffTags | None
) -> DecodedImage | None:
    """Colours of more than 8 bits, and TIFF of kinds that Pillow does not know.

    OpenCV returns what it could make of a damaged file, so Pillow comes first where it can; None
    if OpenCV cannot read it, or gives 8 bits of more.
    """
    source = np.fromfile(path, dtype=np.uint8) if content is None else np.frombuffer(content, "u1")
    with _quiet_opencv():
        try:
            image = cv2.imdecode(source, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:
            return None
    if image is None or (image.dtype == np.uint8 and (tags is None or tags.bits > 8)):
        return None
    values: NDArray[Any] = np.asarray(image)
    if values.ndim == 2:
        return DecodedImage(values)
    if values.shape[2] not in (3, 4):
        return None
    has_alpha = values.shape[2] == 4 and (
        tags is None or tags.extra_samples is None or tags.extra_samples in ALPHAS
    )
    opaque = _both(None, values[..., 3] > 0) if has_alpha else None
    return DecodedImage(values[..., 2::-1], opaque)


def _both(first: NDArray[np.bool_] | None, second: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Pixels where both are true in all channels; None if all are."""
    joined = np.asarray(second.all(axis=2) if second.ndim == 3 else second)
    if first is not None:
        joined = first & joined
    return None if joined.all() else joined


@contextlib.contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Return no lines on stderr about a damaged file: the caller reports it."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
