"""What the header of an image file says: its size, and what EXIF knows of the camera.

Nothing is decoded, so a folder of thousands takes a second or two.
"""

import contextlib
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from rekd_hloc.image_kinds import is_raw, register_heif
from rekd_hloc.raw_photos import can_read_raw, read_exif, read_frame

TAGS = ExifTags.Base
Size = tuple[int, int]
"""Width and height in pixels, as they are stored."""

FILM_DIAGONAL_MM = 43.27
"""Of the film to which EXIF's 35 mm equivalent refers, rounded as in COLMAP."""
MAX_ASPECT_CHANGE = 0.05
"""A photo whose aspect ratio differs by more from the one in EXIF was cropped."""


@dataclass(frozen=True)
class ImageHeader:
    """Describe an image file without its pixels.

    Attributes:
        size: width and height as stored, whatever the orientation.
        orientation: EXIF's number from 1 (upright) to 8; 6 is to be shown rotated to the right by
            90 degrees, 8 to the left.
        make: of the camera; empty if unknown.
        model: of the camera; empty if unknown.
        focal_mm: EXIF's focal length in mm; None if there is none.
        focal_35mm: its equivalent on 35 mm film; None if there is none.
        taken_size: the size that EXIF says the photo was taken with; None if it says nothing.
    """

    size: Size
    orientation: int = 1
    make: str = ""
    model: str = ""
    focal_mm: float | None = None
    focal_35mm: float | None = None
    taken_size: Size | None = None

    @property
    def camera_name(self) -> str:
        """Return make and model; empty if EXIF has neither."""
        repeated = self.make and self.model.lower().startswith(self.make.lower())
        return self.model if repeated else f"{self.make} {self.model}".strip()

    @property
    def camera_key(self) -> tuple[Any, ...] | None:
        """Return what photos of one camera have in common, as in COLMAP; None if it is unknown."""
        focal = self.focal_35mm or self.focal_mm
        known = bool(self.make and self.model and focal)
        return (self.make, self.model, focal, self.size) if known else None

    @property
    def focal_px(self) -> float | None:
        """Return the focal length that the 35 mm equivalent means, in pixels of ``size``."""
        if not self.focal_35mm:
            return None
        return self.focal_35mm / FILM_DIAGONAL_MM * math.hypot(*self.size)

    @property
    def is_cropped(self) -> bool:
        """Say whether EXIF was written for an image of another aspect ratio, rotated or not."""
        if self.taken_size is None:
            return False
        taken, stored = (max(size) / min(size) for size in (self.taken_size, self.size))
        return abs(stored / taken - 1.0) > MAX_ASPECT_CHANGE


def read_headers(image_dir: Path | None, names: Iterable[str]) -> dict[str, ImageHeader]:
    """Return the headers of those images that are there and have a readable one."""
    if image_dir is None:
        return {}
    headers = {name: read_header(image_dir / name) for name in names}
    return {name: header for name, header in headers.items() if header is not None}


def read_header(path: Path) -> ImageHeader | None:
    """Return the header of an image file, or None if Pillow cannot read it.

    What is damaged in EXIF counts as absent.
    """
    register_heif()
    rotation = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about size and odd metadata
            if is_raw(path.name) and can_read_raw():
                size, rotation = read_frame(path)
                main, details = _read_raw_exif(path)
            else:
                main, details, size = _read_by_pillow(path)
    except Exception:  # Pillow raises whatever its parsing meets
        return None
    if min(size) < 1:
        return None
    orientation = rotation or _number(main.get(TAGS.Orientation)) or 1
    return ImageHeader(
        size=size,
        orientation=int(orientation) if orientation in range(1, 9) else 1,
        make=_text(main.get(TAGS.Make)),
        model=_text(main.get(TAGS.Model)),
        focal_mm=_number(details.get(TAGS.FocalLength)),
        focal_35mm=_number(details.get(TAGS.FocalLengthIn35mmFilm)),
        taken_size=_taken_size(details),
    )


def _read_by_pillow(path: Path) -> tuple[dict[int, Any], dict[int, Any], Size]:
    with Image.open(path) as image:
        main, details = _read_exif(image)
        size = (int(image.width), int(image.height))
        if image.format == "TIFF":  # Pillow gives the size as it is shown
            size = int(main[TAGS.ImageWidth]), int(main[TAGS.ImageLength])
    return main, details, size


def _read_raw_exif(path: Path) -> tuple[dict[int, Any], dict[int, Any]]:
    with contextlib.suppress(Exception):
        exif = read_exif(path)
        return dict(exif), dict(exif.get_ifd(ExifTags.IFD.Exif))
    return {}, {}


def _read_exif(image: Image.Image) -> tuple[dict[int, Any], dict[int, Any]]:
    """Return the tags of the image and those of the photo."""
    if image.format == "PNG" and "exif" not in image.info:
        return {}, {}  # Pillow would decode all pixels to look behind them
    with contextlib.suppress(Exception):
        exif = image.getexif()
        return dict(exif), dict(exif.get_ifd(ExifTags.IFD.Exif))
    return {}, {}


def _taken_size(details: dict[int, Any]) -> Size | None:
    width = _number(details.get(TAGS.ExifImageWidth))
    height = _number(details.get(TAGS.ExifImageHeight))
    return (int(width), int(height)) if width and height else None


def _number(value: Any) -> float | None:
    """Return a positive finite number, or None for what is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _text(value: Any) -> str:
    return value.replace("\x00", "").strip() if isinstance(value, str) else ""
