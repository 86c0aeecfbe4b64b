"""A folder of images becomes one file of features.

One bad file never ends a run: it is skipped, and the summary says why. What is finished is kept
whenever and however a run ends, and the next one goes on from there. Images may be extracted by
many workers, while this process alone writes the file.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from rekd_hloc.images import ImageReadError, read_color, read_image, read_mask
from rekd_hloc.sfm.image_folder import check_names, find_mask
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.storage.hdf5 import check_name
from rekd_hloc.types import Features, Keypoints

logger = logging.getLogger(__name__)

SKIPPED_ERRORS = (ImageReadError, FileNotFoundError, PermissionError)
"""Of an image or its mask: these concern one file, any other ends the run."""


Pixels = Tensor | NDArray[np.uint8]
"""Grey floats (height, width) in 0..1, or RGB bytes (height, width, 3)."""


@runtime_checkable
class ImageExtractor(Protocol):
    """What :func:`extract_images` needs; :class:`rekd_hloc.features.extractor.Extractor` is one."""

    @property
    def provenance(self) -> Mapping[str, str]:
        """Say what a features file records: configuration, weights, all that changes them."""

    @property
    def num_readers(self) -> int:
        """Say how many threads read images ahead of the extractor, each holding one image."""

    @property
    def needs_color(self) -> bool:
        """Say whether the extractor takes colours."""

    def __call__(self, image: Pixels, mask: NDArray[np.bool_] | None = None) -> Features:
        """Return features of an image.

        Args:
            image: what :func:`rekd_hloc.images.read_image` gives; with ``needs_color``, what
                :func:`rekd_hloc.images.read_color` gives.
            mask: (height, width), False where pixels must be ignored.
        """


@dataclass(frozen=True)
class ImageFile:
    """Name an image to extract.

    Attributes:
        name: its name in the features file.
        path: of the image.
        mask: of a mask of the same size, zero where to ignore; None uses the whole image.
    """

    name: str
    path: Path
    mask: Path | None = None


@dataclass(frozen=True)
class FeatureArrays:
    """Features as arrays, which go to another process by plain copying."""

    xy: NDArray[np.float32]
    scale: NDArray[np.float32]
    angle: NDArray[np.float32]
    score: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    image_size: tuple[int, int]


MapImages = Callable[
    [Callable[[ImageFile], FeatureArrays | str], Iterable[ImageFile]],
    Iterable[FeatureArrays | str],
]
"""The interface of ``map`` and of ``concurrent.futures.Executor.map``; a text says why an image has
no features."""


@dataclass(frozen=True)
class ExtractionSummary:
    """Tell what an extraction did.

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
    map_images: MapImages = map,
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
        map_images: as for :func:`extract_files`.

    Raises:
        FileNotFoundError: no such folder, or one of ``names`` is not in it.
        ValueError: the folder holds no image, or ``out`` was made with other options.
        OSError: ``out`` cannot be written, or the disk is full; what was finished is kept.
    """
    names = check_names(image_dir, names, mask_dir)
    return extract_files(
        extractor,
        [ImageFile(name, image_dir / name, _mask(mask_dir, name)) for name in names],
        out,
        provenance={"masks": "none" if mask_dir is None else "used"},
        overwrite=overwrite,
        progress=progress,
        map_images=map_images,
    )


def extract_files(
    extractor: ImageExtractor,
    images: Sequence[ImageFile],
    out: Path,
    *,
    provenance: Mapping[str, str] | None = None,
    overwrite: bool = False,
    progress: bool = False,
    label: str = "extract",
    map_images: MapImages = map,
) -> ExtractionSummary:
    """Extract features of image files, wherever they lie, into an HDF5 file of hloc's form.

    Args:
        extractor: image to features.
        images: each with a name of its own.
        out: file to write, or to go on with if it was made with the same options.
        provenance: what else the features depend on; recorded beside the extractor's own.
        overwrite: replace ``out`` instead of going on with it.
        progress: show a bar on stderr.
        label: of the bar.
        map_images: applies a function to images. The builtin ``map`` extracts here, while threads
            read the next ``extractor.num_readers`` images; ``Executor.map`` of threads or processes
            reads and extracts on many workers. Results must come in order. Function, images and
            results can be pickled if the extractor can, which is pickled with each image for other
            processes. Only the calling process writes ``out``, which is the same file for every
            ``map``.

    Raises:
        ValueError: ``out`` was made with other options.
        OSError: ``out`` cannot be written, or the disk is full; what was finished is kept.
    """
    start = time.perf_counter()
    skipped: dict[str, str] = {}
    counts: dict[str, int] = {}
    made_with = {**extractor.provenance, **(provenance or {})}
    with FeatureStore.resume(out, made_with, overwrite=overwrite) as store:
        missing = [image for image in images if image.name not in store]
        resumed = [image.name for image in images if image.name in store]
        bar = tqdm(missing, label, unit=" images", disable=None if progress else True)
        work = _ImageWork(extractor)
        results = work.read_ahead(missing) if map_images is map else map_images(work, missing)
        for image, result in zip(bar, results, strict=True):
            if isinstance(result, str):
                skipped[image.name] = result
                logger.info("skipped %s: %s", image.name, result)
            else:
                features = _to_features(result)
                store.write(image.name, features)
                counts[image.name] = len(features)
        counts |= {name: len(store.read(name)) for name in resumed}
    names = [image.name for image in images if image.name in counts]
    seconds = time.perf_counter() - start
    num_keypoints = {name: counts[name] for name in names}
    return ExtractionSummary(names, skipped, len(resumed), seconds, num_keypoints)


def _mask(mask_dir: Path | None, name: str) -> Path | None:
    return None if mask_dir is None else find_mask(mask_dir, name)


_Loaded = tuple[Pixels, NDArray[np.bool_] | None]


class _ImageWork:
    """Reads one image with its mask and extracts its features; picklable if the extractor is."""

    def __init__(self, extractor: ImageExtractor) -> None:
        self._extractor = extractor

    def __call__(self, image: ImageFile) -> FeatureArrays | str:
        """Return the features, or why there are none."""
        return self.extract(self.load(image))

    def load(self, image: ImageFile) -> _Loaded | str:
        """Return the image and its mask, or why they cannot be used."""
        try:
            check_name(image.name)
        except ValueError as error:
            return str(error)
        try:
            pixels = self._read(image.path)
            if image.mask is None:
                return pixels, None
            if not image.mask.is_file():
                return f"no mask {image.mask}; make one, white to use the whole image"
            mask = read_mask(image.mask)
        except SKIPPED_ERRORS as error:
            return str(error)
        except MemoryError:
            return "not enough memory to read it"
        if mask.shape != tuple(pixels.shape[:2]):
            return (
                f"mask {image.mask} is {mask.shape[1]}x{mask.shape[0]} px, its image {image.path} "
                f"{pixels.shape[1]}x{pixels.shape[0]}; they must be equal"
            )
        return pixels, mask

    def extract(self, loaded: _Loaded | str) -> FeatureArrays | str:
        """Return the features of what :meth:`load` gave."""
        if isinstance(loaded, str):
            return loaded
        pixels, mask = loaded
        try:
            return _to_arrays(self._extractor(pixels, mask))
        except (MemoryError, torch.OutOfMemoryError):
            size = f"{pixels.shape[1]}x{pixels.shape[0]}"
            return f"not enough memory for {size} px; set a smaller max_side_px"

    def read_ahead(self, images: Sequence[ImageFile]) -> Iterator[FeatureArrays | str]:
        """Return the results in order; threads read the next images while one is extracted here."""
        num_readers = self._extractor.num_readers
        with ThreadPoolExecutor(num_readers) as readers:
            ahead: deque[Future[_Loaded | str]] = deque()
            for image in images:
                ahead.append(readers.submit(self.load, image))
                if len(ahead) > num_readers:
                    yield self.extract(ahead.popleft().result())
            while ahead:
                yield self.extract(ahead.popleft().result())

    def _read(self, path: Path) -> Pixels:
        return read_color(path) if self._extractor.needs_color else read_image(path)


def _to_arrays(features: Features) -> FeatureArrays:
    keypoints = features.keypoints
    return FeatureArrays(
        xy=keypoints.xy.numpy(),
        scale=keypoints.scale.numpy(),
        angle=keypoints.angle.numpy(),
        score=keypoints.score.numpy(),
        descriptors=features.descriptors.numpy(),
        image_size=features.image_size,
    )


def _to_features(arrays: FeatureArrays) -> Features:
    tensors = map(torch.from_numpy, (arrays.xy, arrays.scale, arrays.angle, arrays.score))
    return Features(Keypoints(*tensors), torch.from_numpy(arrays.descriptors), arrays.image_size)
