"""Which files of a folder are images, and where the masks of images are."""

import os
from collections.abc import Sequence
from pathlib import Path

from rekd_hloc.image_listing import ImageListing, list_folder
from rekd_hloc.known_names import find_name, suggest
from rekd_hloc.names import printable

MOST = 0.5
"""Share of the images of a run that may vanish one by one while it lasts. Beyond it, a disk or a
folder has gone, and what would come out is no result of these images."""


def find_images(
    image_dir: Path, *, mask_dir: Path | None = None, output: Path | None = None
) -> ImageListing:
    """List the images in a folder that are neither masks nor results of ours.

    Args:
        image_dir: searched with its subfolders.
        mask_dir: if it lies in ``image_dir``, its files are no images; if it is that folder, a
            file NAME.png beside an image NAME is none.
        output: if it lies in ``image_dir``, its files are no images.

    Returns:
        The images, and what looks like a photo and is not used.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it holds no image.
        OSError: it cannot be searched.
    """
    listing = list_folder(image_dir, leave_out=(mask_dir, output))
    listing.require_images(image_dir)
    names = listing.images
    if mask_dir is not None and mask_dir.resolve() == image_dir.resolve():
        known = {*names, *listing.unused}
        names = [
            name for name in names if name.removesuffix(".png") == name or name[:-4] not in known
        ]
    return ImageListing(names, listing.unused)


def check_names(
    image_dir: Path, names: Sequence[str] | None, mask_dir: Path | None = None
) -> ImageListing:
    """Return the images to extract, each once; all of the folder when ``names`` is None.

    Raises:
        FileNotFoundError: no such folder of images or masks, or a name is not in it.
        ValueError: there is no image.
    """
    if mask_dir is not None and not mask_dir.is_dir():
        raise FileNotFoundError(f"no mask folder {printable(mask_dir)}")
    if names is None:
        return find_images(image_dir, mask_dir=mask_dir)
    if not image_dir.is_dir():
        raise FileNotFoundError(f"no image folder {printable(image_dir)}")
    return ImageListing(list(dict.fromkeys(_find_names(image_dir, names))), {})


def _find_names(image_dir: Path, names: Sequence[str]) -> list[str]:
    """Return names as the folder has them, which may use another Unicode form of a letter."""
    missing = [name for name in names if not (image_dir / name).is_file()]
    known = frozenset(list_folder(image_dir).images if missing else ())
    meant = {name: find_name(name, known) for name in missing}
    lost = [name for name in missing if meant[name] is None]
    if lost:
        raise FileNotFoundError(
            f"{len(lost)} of {len(names)} images are not in {printable(image_dir)}, "
            f"such as {lost[0]!r}{suggest(lost[0], known)}"
        )
    return [meant.get(name) or name for name in names]


def check_still_there(images: Sequence[Path], kept_in: Path) -> None:
    """End a run whose images have gone since it began, most of them or all.

    One file that has gone was deleted by someone, and the run goes on without it. If more than half
    have gone, then a disk was unplugged, or a share, a folder or a link went away.

    Args:
        images: all those of the run, as they were listed when it began.
        kept_in: what is done is there.

    Raises:
        FileNotFoundError: images are gone; the message says how many, and from where.
    """
    gone = [path for path in images if not is_there(path)]
    if len(gone) > MOST * len(images):
        folder = Path(os.path.commonpath([path.parent for path in gone]))
        raise FileNotFoundError(
            f"{len(gone)} of {len(images)} images in {printable(folder)} have gone since the run "
            f"began; bring them back and give the same command again: what is done is in "
            f"{printable(kept_in)}"
        )


def is_there(path: Path) -> bool:
    """Say whether a file can be reached; one on a lost disk cannot."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def find_mask(mask_dir: Path, name: str) -> Path:
    """Return where the mask of an image is, or where COLMAP would look for it if there is none.

    The name with ``.png`` behind it goes before the name with ``.png`` for its suffix.
    """
    mask = mask_dir / f"{name}.png"
    shorter = (mask_dir / name).with_suffix(".png")
    return shorter if shorter.is_file() and not mask.is_file() else mask
