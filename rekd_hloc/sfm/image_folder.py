"""Which files of a folder are images, and where the masks of images are."""

from collections.abc import Sequence
from pathlib import Path

from rekd_hloc.image_listing import list_images


def find_images(
    image_dir: Path, *, mask_dir: Path | None = None, output: Path | None = None
) -> list[str]:
    """Return the names of the images in a folder that are neither masks nor results of ours.

    Args:
        image_dir: searched with its subfolders.
        mask_dir: if it lies in ``image_dir``, its files are no images; if it is that folder, a
            file NAME.png beside an image NAME is none.
        output: if it lies in ``image_dir``, its files are no images.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it holds no image.
    """
    names = list_images(image_dir)
    base = image_dir.resolve()
    for folder in (mask_dir, output):
        if folder is not None and base in folder.resolve().parents:
            inside = folder.resolve().relative_to(base)
            names = [name for name in names if inside not in Path(name).parents]
    if mask_dir is not None and mask_dir.resolve() == base:
        known = set(names)
        names = [
            name for name in names if name.removesuffix(".png") == name or name[:-4] not in known
        ]
    if not names:
        raise ValueError(f"{image_dir} holds no image beside masks and results")
    return names


def check_names(
    image_dir: Path, names: Sequence[str] | None, mask_dir: Path | None = None
) -> list[str]:
    """Return the images to extract, each once; all of the folder when ``names`` is None.

    Raises:
        FileNotFoundError: no such folder of images or masks, or a name is not in it.
        ValueError: there is no image.
    """
    if mask_dir is not None and not mask_dir.is_dir():
        raise FileNotFoundError(f"no mask folder {mask_dir}")
    if names is None:
        return find_images(image_dir, mask_dir=mask_dir)
    if not image_dir.is_dir():
        raise FileNotFoundError(f"no image folder {image_dir}")
    missing = [name for name in names if not (image_dir / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(names)} images are not in {image_dir}, such as {missing[0]!r}"
        )
    return list(dict.fromkeys(names))


def find_mask(mask_dir: Path, name: str) -> Path:
    """Return where the mask of an image is, or where COLMAP would look for it if there is none.

    The name with ``.png`` behind it goes before the name with ``.png`` for its suffix.
    """
    mask = mask_dir / f"{name}.png"
    shorter = (mask_dir / name).with_suffix(".png")
    return shorter if shorter.is_file() and not mask.is_file() else mask
