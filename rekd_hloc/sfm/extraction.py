"""A folder of photographs becomes one file of features.

One bad file never ends a run: it is skipped, and the summary says why. What is finished is kept
whenever and however a run ends, and the next one goes on from there.
"""

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from rekd_hloc.images import ImageReadError, list_images, read_image, read_mask
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.storage.hdf5_file import check_name
from rekd_hloc.types import Features

logger = logging.getLogger(__name__)

SKIPPED_ERRORS = (ImageReadError, FileNotFoundError, PermissionError)
"""Of an image or its mask: these concern one file, any other ends the run."""


@runtime_checkable
class ImageExtractor(Protocol):
    """What :func:`extract_images` needs; :class:`rekd_hloc.features.extractor.Extractor` is one."""

    @property
    def provenance(self) -> Mapping[str, str]:
        """What a features file records: configuration, weights, all that changes the features."""

    @property
    def num_readers(self) -> int:
        """Threads that read images ahead of it, each holding one: what keeps it busy."""

    def __call__(self, image: Tensor, mask: NDArray[np.bool_] | None = None) -> Features:
        """Features of a grey image, (height, width) in 0..1; the mask is False where to ignore."""


@dataclass(frozen=True)
class ExtractionSummary:
    """What :func:`extract_images` did.

    Attributes:
        names: images whose features are in the file now, in their order.
        skipped: images without features, and why.
        num_resumed: of ``names``, how many were in the file before.
        seconds: this run took.
        num_keypoints: of each image in ``names``.
    """

    names: list[str]
    skipped: dict[str, str]
    num_resumed: int
    seconds: float
    num_keypoints: dict[str, int]


def extract_images(
    extractor: ImageExtractor,
    image_dir: Path,
    out: Path,
    *,
    names: Sequence[str] | None = None,
    mask_dir: Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> ExtractionSummary:
    """Extract features of all images in a folder into an HDF5 file of hloc's form.

    Args:
        extractor: image to features.
        image_dir: searched with its subfolders.
        out: file to write, or to go on with if it was made with the same options.
        names: images to take, relative to ``image_dir``; all when None.
        mask_dir: masks as COLMAP's, one for each image: ``NAME.png`` with NAME including its
            suffix, or NAME with ``.png`` for its suffix; zero where to ignore.
        overwrite: replace ``out`` instead of going on with it.
        progress: show a bar on stderr.

    Raises:
        FileNotFoundError: no such folder, or one of ``names`` is not in it.
        ValueError: the folder holds no image, or ``out`` was made with other options.
        OSError: ``out`` cannot be written, or the disk is full; what was finished is kept.
    """
    start = time.perf_counter()
    names = check_names(image_dir, names, mask_dir)
    provenance = {**extractor.provenance, "masks": "none" if mask_dir is None else "used"}
    skipped: dict[str, str] = {}
    counts: dict[str, int] = {}
    with FeatureStore.resume(out, provenance, overwrite=overwrite) as store:
        todo = [name for name in names if name not in store]
        resumed = [name for name in names if name in store]
        bar = tqdm(todo, "extract", unit=" images", disable=None if progress else True)
        loaded_images = _load_ahead(image_dir, mask_dir, todo, extractor.num_readers)
        for name, loaded in zip(bar, loaded_images, strict=True):
            found = loaded if isinstance(loaded, str) else _extract(extractor, *loaded)
            if isinstance(found, str):
                skipped[name] = found
                logger.info("skipped %s: %s", name, found)
            else:
                store.write(name, found)
                counts[name] = len(found)
        counts |= {name: len(store.read(name)) for name in resumed}
    kept = [name for name in names if name in counts]
    seconds = time.perf_counter() - start
    return ExtractionSummary(
        kept, skipped, len(resumed), seconds, {name: counts[name] for name in kept}
    )


def find_images(
    image_dir: Path, *, mask_dir: Path | None = None, output: Path | None = None
) -> list[str]:
    """Names of the images in a folder that are neither masks nor results of ours.

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
    """The images to take, each once; all of the folder when ``names`` is None.

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
    """The mask of an image where COLMAP looks for it.

    Raises:
        FileNotFoundError: there is none; the message names the file to make.
    """
    mask = mask_dir / f"{name}.png"
    shorter = (mask_dir / name).with_suffix(".png")
    if mask.is_file() or not shorter.is_file():
        if not mask.is_file():
            raise FileNotFoundError(f"no mask {mask}; make one, white to use the whole image")
        return mask
    return shorter


_Loaded = tuple[Tensor, NDArray[np.bool_] | None]


def _load_ahead(
    image_dir: Path, mask_dir: Path | None, names: Sequence[str], num_readers: int
) -> Iterator[_Loaded | str]:
    """Images with masks in order, or why one cannot be used; the next ones are read meanwhile."""
    with ThreadPoolExecutor(num_readers) as readers:
        ahead: deque[Future[_Loaded | str]] = deque()
        for name in names:
            ahead.append(readers.submit(_load, image_dir, mask_dir, name))
            if len(ahead) > num_readers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _load(image_dir: Path, mask_dir: Path | None, name: str) -> _Loaded | str:
    try:
        check_name(name)
    except ValueError as error:
        return str(error)
    try:
        image = read_image(image_dir / name)
        if mask_dir is None:
            return image, None
        path = find_mask(mask_dir, name)
        mask = read_mask(path)
    except SKIPPED_ERRORS as error:
        return str(error)
    except MemoryError:
        return "not enough memory to read it"
    if mask.shape != tuple(image.shape):
        return (
            f"mask {path} is {mask.shape[1]}x{mask.shape[0]} px, its image {image_dir / name} "
            f"{image.shape[1]}x{image.shape[0]}; they must be equal"
        )
    return image, mask


def _extract(
    extractor: ImageExtractor, image: Tensor, mask: NDArray[np.bool_] | None
) -> Features | str:
    try:
        return extractor(image, mask)
    except (MemoryError, torch.OutOfMemoryError):
        size = f"{image.shape[1]}x{image.shape[0]}"
        return f"not enough memory for {size} px; set a smaller max_side_px"
