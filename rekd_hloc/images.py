"""Reading photographs of every kind a user has, making them smaller, and the map between the sizes.

Files are decoded by Pillow: it says so when a file is damaged instead of returning half of it. The
pixel grid is the file's own, as for COLMAP and hloc: the orientation that a camera noted in EXIF is
applied on request only. Alpha is dropped, ink (CMYK) and palettes become light.
"""

import warnings
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from rekd_hloc.geometry import resize_matrix

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".jp2", ".gif")
)
"""Endings of files that :func:`list_images` takes for photographs, in any case."""
LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601 weights of red, green and blue, as in OpenCV and hloc."""
MAX_PIXELS = 400_000_000
"""Larger files are refused: a damaged header can claim any size."""


class ImageReadError(ValueError):
    """A file that holds no readable image; the message names the file and the reason."""


def list_images(folder: Path) -> list[str]:
    """Names of all images below a folder, relative to it, with ``/``, sorted.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder holds no file with a known ending.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no image folder {folder}")
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not names:
        endings = " ".join(sorted(SUFFIXES))
        raise ValueError(f"{folder} holds no image; files must end in one of {endings}")
    return names


def read_image(path: Path, *, apply_exif: bool = False) -> Float[Tensor, "height width"]:
    """Grey values in 0..1.

    Args:
        path: a file of any depth, with or without colour, palette or alpha.
        apply_exif: turn the image upright by its EXIF orientation. COLMAP and hloc do not, so
            keypoints that go there must not either.

    Raises:
        FileNotFoundError: there is no such file.
        ImageReadError: it is empty, damaged, not an image, or larger than ``MAX_PIXELS``.
    """
    values, white = _decode(path, apply_exif)
    if values.ndim == 3:
        values = values @ np.asarray(LUMA, dtype=np.float32)
    grey = np.clip(values / np.float32(white), 0.0, 1.0)
    return torch.from_numpy(np.ascontiguousarray(grey, dtype=np.float32))


def read_color(path: Path, *, apply_exif: bool = False) -> UInt8[np.ndarray, "height width 3"]:
    """RGB bytes; grey images have three equal channels.

    Raises:
        FileNotFoundError, ImageReadError: as :func:`read_image`.
    """
    values, white = _decode(path, apply_exif)
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=2)
    rgb = np.clip(np.rint(values * np.float32(255.0 / white)), 0, 255)
    return np.asarray(rgb, dtype=np.uint8)


def read_mask(path: Path) -> NDArray[np.bool_]:
    """A mask in COLMAP's sense: True where a pixel may be used, False where the file is zero.

    Raises:
        FileNotFoundError, ImageReadError: as :func:`read_image`.
    """
    values, _ = _decode(path, apply_exif=False)
    used = values > 0
    return np.asarray(used.any(axis=2) if used.ndim == 3 else used)


def shrink(
    grey: Float[Tensor, "height width"], max_side_px: int
) -> tuple[Float[Tensor, "small_height small_width"], Float[Tensor, "3 3"]]:
    """The image with its longer side at most ``max_side_px``, and ``small_from_image``.

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


def _decode(path: Path, apply_exif: bool) -> tuple[NDArray[np.float32], float]:
    """Values of shape (height, width) or (height, width, 3), and the value that is white."""
    if not path.is_file():
        raise FileNotFoundError(f"no image file {path}")
    if path.stat().st_size == 0:
        raise ImageReadError(f"cannot read {path}: the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of size and odd metadata; both are ours
            with Image.open(path) as image:
                _check_size(image)
                upright = ImageOps.exif_transpose(image) if apply_exif else image
                return _to_array(upright)
    except ImageReadError as error:
        raise ImageReadError(f"cannot read {path}: {error}") from error
    except UnidentifiedImageError as error:
        exotic = _decode_by_opencv(path)
        if exotic is None:
            raise ImageReadError(f"cannot read {path}: not an image, or a damaged one") from error
        return exotic
    except PermissionError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageReadError(f"cannot read {path}: {reason}") from error


def _check_size(image: ImageFile.ImageFile) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageReadError(f"{width}x{height} px is more than {MAX_PIXELS // 10**6} megapixels")


def _to_array(image: Image.Image) -> tuple[NDArray[np.float32], float]:
    mode = image.mode
    if mode.startswith("I"):  # 16-bit grey: I;16, I;16B, or I that holds 16 bits
        return np.asarray(image, dtype=np.float32), 65535.0
    if mode == "F":
        values = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0.0, neginf=0.0)
        return values, 1.0 if values.max(initial=0.0) <= 1.0 else 255.0
    if mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("L"), dtype=np.float32), 255.0
    return np.asarray(_to_rgb(image), dtype=np.float32), 255.0


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGB", "RGBX"):
        return image.convert("RGB")
    if image.mode in ("RGBA", "RGBa", "P", "PA"):  # alpha is dropped, not laid over a colour
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _decode_by_opencv(path: Path) -> tuple[NDArray[np.float32], float] | None:
    """TIFF of kinds that Pillow does not know, 16 bits a colour among them; None if none at all."""
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None  # OpenCV returns what it could make of a damaged file of other kinds
    image = cv2.imdecode(np.fromfile(path, dtype=np.uint8), flags)
    if image is None:
        return None
    white = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}.get(image.dtype, 1.0)
    return np.asarray(image[..., ::-1], dtype=np.float32), white
