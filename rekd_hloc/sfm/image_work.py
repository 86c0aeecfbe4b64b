"""One image is read, with its mask, and becomes features; on whichever worker.

What is wrong with a file is returned as a text, never raised: it concerns one image only.
"""

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

from rekd_hloc.images import ImageReadError, read_color, read_image, read_mask
from rekd_hloc.storage.names import check_name
from rekd_hloc.types import Features

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


_Loaded = tuple[Pixels, NDArray[np.bool_] | None]


class ImageWork:
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
