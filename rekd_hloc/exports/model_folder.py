"""Where a model lies, and where its photos are."""

from pathlib import Path

from rekd_hloc.json_text import read_json
from rekd_hloc.sfm.output_folder import DATABASE_RECORD, MODEL

INSIDE = (".", f"{MODEL}/0", "0", MODEL)
"""Where a model may lie in the folder that a user names."""
PHOTOS = "images"
"""Folder of the photos beside a model of COLMAP's dense reconstruction."""


def find_model(folder: Path) -> tuple[Path, Path]:
    """Return the folder of a model, and the one in which its project lies.

    Args:
        folder: of a model, of several models, or the output of ``reconstruct``.

    Raises:
        FileNotFoundError: none of them.
    """
    for inside in INSIDE:
        found = folder / inside
        if any((found / f"images.{kind}").is_file() for kind in ("bin", "txt")):
            return found, _find_home(found.resolve())
    raise FileNotFoundError(
        f"{folder} holds no COLMAP model; name the output of reconstruct, or a folder with "
        "images.bin or images.txt"
    )


def find_image_folder(home: Path, given: Path | None) -> Path:
    """Return the folder of the photos: the given one, or the one that the project has noted.

    Raises:
        FileNotFoundError: it is not there, or not known.
    """
    if given is not None:
        if given.is_dir():
            return given
        raise FileNotFoundError(f"no image folder {given}")
    noted = _read_noted(home / DATABASE_RECORD)
    if noted is not None and noted.is_dir():
        return noted
    if (home / PHOTOS).is_dir():
        return home / PHOTOS
    gone = f"; {noted} is not there any more" if noted is not None else ""
    raise FileNotFoundError(f"the format needs the photos: name their folder with --images{gone}")


def _find_home(model: Path) -> Path:
    """The folder above the model, and above ``sparse`` if it lies in one."""
    above = model.parent
    return above.parent if above.name == MODEL else above


def _read_noted(record: Path) -> Path | None:
    try:
        content = read_json(record)
    except (OSError, ValueError):
        return None
    noted = content.get("images") if isinstance(content, dict) else None
    return Path(noted) if isinstance(noted, str) else None
