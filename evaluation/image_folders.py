"""Which images train and which validate: one rule for the detector and the descriptor.

An image belongs to the validation tenth by a hash of its file name, so the split does not depend
on the folder, on the order or on which other images are there.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from rekd_hloc.image_listing import list_images


def list_image_paths(folders: Iterable[Path | str]) -> tuple[list[Path], list[Path]]:
    """List the images of all folders as (training, validation), each sorted by path.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: no folder is given, or a folder holds no image.
    """
    paths = [folder / name for folder in map(Path, folders) for name in list_images(folder)]
    if not paths:
        raise ValueError("no images: give images=[FOLDER,...] with natural images")
    training = sorted(path for path in paths if not is_validation(path.name))
    return training, sorted(path for path in paths if is_validation(path.name))


def from_first_to_last(paths: Sequence[Path], count: int) -> list[Path]:
    """Return at most ``count`` of the sorted paths, evenly spread with both ends; 0 takes all."""
    picked = np.linspace(0, len(paths) - 1, min(count or len(paths), len(paths)))
    return [paths[int(number)] for number in picked]


def is_validation(name: str) -> bool:
    """Say whether the image of that file name is held out: one in ten, by sha256."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 10 == 0


def images_hash(paths: Iterable[Path]) -> str:
    """Return twelve hexadecimal digits that change when an image's name or content does."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        digest.update(path.name.encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]
