"""Which kinds of files are images, and which look like photos but cannot be used as they are.

HEIC is read where ``pillow-heif`` is installed, AVIF where Pillow was built with it, and camera raw
where ``rawpy`` is installed.
"""

import functools
from pathlib import PurePath

from PIL import features

from rekd_hloc.raw_photos import can_read_raw

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".tif", ".tiff", ".webp", ".gif"),
        *(".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".j2c", ".jpx", ".jpf"),
    )
)
"""Endings of files that are always taken for images, in lower case."""
HEIF_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
AVIF_SUFFIXES = frozenset((".avif",))
HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"))
AVIF_BRANDS = frozenset((b"avif", b"avis"))
RAW_SUFFIXES = frozenset(
    (
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq"),
        *(".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2"),
        *(".rwl", ".sr2", ".srf", ".srw", ".x3f"),
    )
)
VIDEO_SUFFIXES = frozenset(
    (
        *(".3gp", ".avi", ".insv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"),
        *(".mts", ".webm", ".wmv"),
    )
)
HEIF = (
    'a HEIC photo, for which pillow-heif is missing: `pip install "rekd-hloc[heif]"`, '
    "or convert it to JPEG"
)
AVIF = "an AVIF photo, which this Pillow cannot read: `pip install -U pillow`, or convert it to PNG"
RAW = (
    'camera raw, for which rawpy is missing: `pip install "rekd-hloc[raw]"`, '
    "or develop it to JPEG or TIFF, for example with darktable-cli or RawTherapee"
)
VIDEO = "a video: take frames out of it by `rekd-hloc frames VIDEO FOLDER --fps 2`"
FLOATS = "a picture of floating-point values: convert it to TIFF, for example with ImageMagick"
LAYERS = "a picture of layers: export it as TIFF or PNG from the program that made it"
UNUSED = {
    **dict.fromkeys(RAW_SUFFIXES, RAW),
    **dict.fromkeys(VIDEO_SUFFIXES, VIDEO),
    **dict.fromkeys((".hdr", ".exr", ".pfm"), FLOATS),
    **dict.fromkeys((".psd", ".psb", ".xcf"), LAYERS),
    ".jxl": "JPEG XL, which is not read: convert it, for example `djxl a.jxl a.png`",
    **dict.fromkeys(
        (".jxr", ".wdp", ".hdp"), "JPEG XR, which is not read: convert it to TIFF or PNG"
    ),
}
"""What a file of such an ending is, and what to do about it."""


def is_image(name: str) -> bool:
    """Say whether the ending of a file's name is one of an image that can be read here."""
    suffix = _suffix(name)
    if suffix in HEIF_SUFFIXES:
        return register_heif()
    if suffix in AVIF_SUFFIXES:
        return bool(features.check("avif"))
    if suffix in RAW_SUFFIXES:
        return can_read_raw()
    return suffix in SUFFIXES


def is_raw(name: str) -> bool:
    """Say whether the ending of a file's name is one of camera raw."""
    return _suffix(name) in RAW_SUFFIXES


def explain_unused(name: str) -> str | None:
    """Say what a file is and how to make an image of it; None if it is one, or no photo at all."""
    if is_image(name):
        return None
    suffix = _suffix(name)
    if suffix in HEIF_SUFFIXES:
        return HEIF
    return AVIF if suffix in AVIF_SUFFIXES else UNUSED.get(suffix)


def explain_content(head: bytes) -> str | None:
    """Say what a file is by its first bytes if it is HEIC or AVIF, whatever its name says.

    Args:
        head: 12 bytes or more.

    Returns:
        What it is, and how to make an image of it; None for anything else.
    """
    if head[4:8] != b"ftyp":
        return None
    brand = head[8:12]
    return HEIF if brand in HEIF_BRANDS else AVIF if brand in AVIF_BRANDS else None


@functools.cache
def register_heif() -> bool:
    """Let Pillow read HEIC if ``pillow-heif`` is installed; returns whether it can."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _suffix(name: str) -> str:
    return PurePath(name).suffix.lower()
