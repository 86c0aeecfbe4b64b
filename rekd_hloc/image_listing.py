"""Which files below a folder are images."""

import logging
from pathlib import Path

logger = logging.getLogger(__name__)

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".jp2", ".gif")
)
"""Endings of files that :func:`list_images` takes for images, in upper and lower case."""


def list_images(folder: Path) -> list[str]:
    """Return names of all images below a folder, relative to it, with ``/``, sorted.

    Hidden files and folders are left out, and names that are no Unicode, with a warning.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder holds no file with a known ending.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no image folder {folder}")
    names = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        is_hidden = name.startswith(".") or "/." in name
        if path.suffix.lower() not in SUFFIXES or is_hidden or not path.is_file():
            continue
        try:
            name.encode()
        except UnicodeEncodeError:
            logger.warning("skipped %r: the file's name is not UTF-8; rename it", name)
        else:
            names.append(name)
    if not names:
        endings = " ".join(sorted(SUFFIXES))
        raise ValueError(f"{folder} holds no image; files must end in one of {endings}")
    return sorted(names)
