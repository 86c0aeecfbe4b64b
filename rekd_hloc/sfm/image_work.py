"""One image is read, with its mask, and becomes features; on whichever worker.

What is wrong with a file is returned as a text, never raised: it concerns one image only.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rekd_hloc.images import ImageReadError, LoadedImage, load_image
from rekd_hloc.names import printable
from rekd_hloc.sfm.image_notes import ImageNotes
from rekd_hloc.sfm.mask_frames import AUTO, MaskError, check_mask_frame, fit_mask
from rekd_hloc.sfm.read_ahead import Work, work_ahead
from rekd_hloc.short_memory import is_out_of_memory
from rekd_hloc.storage.names import check_name
from rekd_hloc.storage.stamps import SourceStamps
from rekd_hloc.types import Features
from rekd_hloc.worker_threads import map_in_threads, num_shares

SKIPPED_ERRORS = (ImageReadError, MaskError, FileNotFoundError)
"""Of an image or its mask: these concern one file, any other ends the run."""
READINGS = 2
"""Of a file that is written while it is read, before the image is skipped."""

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
    def num_workers(self) -> int:
        """Say from how many threads it may be called at once; 1 unless it is made for several."""

    @property
    def max_side_px(self) -> int:
        """Say to what longer side it makes larger images smaller; 0 if it makes none smaller.

        No more of a JPEG is decoded than that needs.
        """

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


@runtime_checkable
class BatchExtractor(ImageExtractor, Protocol):
    """One that is faster with several images at once."""

    @property
    def batch_size(self) -> int:
        """Say how many images of one size are best extracted together."""

    def extract_all(self, images: Sequence[Pixels]) -> list[Features]:
        """Return the features of images without masks; not more than ``batch_size`` are given."""


@dataclass(frozen=True)
class ImageFile:
    """Name an image to extract.

    Attributes:
        name: its name in the features file.
        path: of the image.
        mask: of a mask of the same size, zero where to ignore; None uses the whole image.
        mask_frame: ``auto``, ``file`` or ``upright``: the pixel grid that the mask has, see
            :mod:`rekd_hloc.sfm.mask_frames`.

    Raises:
        ValueError: no such frame.
    """

    name: str
    path: Path
    mask: Path | None = None
    mask_frame: str = AUTO

    def __post_init__(self) -> None:
        check_mask_frame(self.mask_frame)


@dataclass(frozen=True)
class FeatureArrays:
    """Features as arrays, which go to another process by plain copying."""

    xy: NDArray[np.float32]
    scale: NDArray[np.float32]
    angle: NDArray[np.float32]
    score: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    image_size: tuple[int, int]
    notes: ImageNotes = ImageNotes()
    stamps: SourceStamps | None = None

    @property
    def attributes(self) -> dict[str, str | float]:
        """Return what a features file records of the image beside its features."""
        stamps = {} if self.stamps is None else self.stamps.attributes
        return {**stamps, **self.notes.attributes}


_Content = tuple[LoadedImage, NDArray[np.bool_] | None, ImageNotes]
_Loaded = tuple[LoadedImage, NDArray[np.bool_] | None, ImageNotes, SourceStamps]


class ImageWork:
    """Reads one image with its mask and extracts its features; picklable if the extractor is."""

    def __init__(self, extractor: ImageExtractor) -> None:
        self.extractor = extractor

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
            return self._load_at_rest(image)
        except PermissionError as error:
            path = printable(error.filename or image.path)
            return f"cannot read {path}: {error.strerror}; make it readable"
        except SKIPPED_ERRORS as error:
            return str(error)
        except (MemoryError, OSError, cv2.error) as error:
            if not is_out_of_memory(error):
                raise
            return f"not enough memory to read {printable(image.path)}; free some, or shrink it"

    def extract(self, loaded: _Loaded | str) -> FeatureArrays | str:
        """Return the features of what :meth:`load` gave."""
        if isinstance(loaded, str):
            return loaded
        image, mask, notes, stamps = loaded
        try:
            features = image.in_file(self.extractor(image.pixels, mask))
            return _to_arrays(features, notes, stamps)
        except (MemoryError, RuntimeError, OSError, cv2.error) as error:
            if not is_out_of_memory(error):
                raise
            size = f"{image.pixels.shape[1]}x{image.pixels.shape[0]}"
            return f"not enough memory for {size} px; set a smaller max_side_px"

    def extract_here(self, images: Sequence[ImageFile]) -> Iterator[FeatureArrays | str]:
        """Return the results in order, from as many threads as the extractor is for."""
        num_workers = num_shares(self.extractor.num_workers)
        if num_workers > 1 and len(images) > 1:
            return map_in_threads(self, images, num_workers)
        work = Work(self.load, self.extract_together, _size_in_batch, _num_pixels)
        extractor = self.extractor
        batch_size = extractor.batch_size if isinstance(extractor, BatchExtractor) else 1
        return work_ahead(work, images, extractor.num_readers, batch_size)

    def extract_together(self, images: Sequence[_Loaded | str]) -> list[FeatureArrays | str]:
        """Return the results of images; if they are several, of one size and without masks."""
        loaded = [image for image in images if not isinstance(image, str)]
        try:
            if len(loaded) > 1 and isinstance(self.extractor, BatchExtractor):
                found = self.extractor.extract_all([image.pixels for image, *_ in loaded])
                return [
                    _to_arrays(image.in_file(features), notes, stamps)
                    for features, (image, _, notes, stamps) in zip(found, loaded, strict=True)
                ]
        except (MemoryError, RuntimeError, OSError, cv2.error) as error:
            if not is_out_of_memory(error):
                raise
        return [self.extract(image) for image in images]

    def _load_at_rest(self, image: ImageFile) -> _Loaded | str:
        """Read what one state of the files holds, not what one of them becomes meanwhile."""
        for _ in range(READINGS):
            stamps = _stamp(image)
            content = self._load(image)
            if isinstance(content, str):
                return content
            if stamps is not None and stamps.fit(image.path, image.mask, image.mask_frame):
                return (*content, stamps)
            del content
        return changed_while(image)

    def _load(self, image: ImageFile) -> _Content | str:
        if image.mask is not None and not image.mask.is_file() and image.path.is_file():
            return f"no mask {printable(image.mask)}; make one, white to use the whole image"
        enough_px = self.extractor.max_side_px if image.mask is None else 0
        loaded = load_image(image.path, color=self.extractor.needs_color, enough_px=enough_px)
        usable, limits = loaded.usable, loaded.value_range
        if usable is not None and not usable.any():
            return (
                f"{printable(image.path)} has no pixel to use, all are transparent or without a "
                "value; remove its alpha channel"
            )
        frame = None
        if image.mask is not None:
            height, width = loaded.pixels.shape[:2]
            mask = fit_mask(
                image.mask, image.path, (height, width), loaded.orientation, image.mask_frame
            )
            usable = mask.usable if usable is None else usable & mask.usable
            frame = mask.frame
            if not usable.any():
                return (
                    f"mask {printable(image.mask)} leaves no pixel of {printable(image.path)}: "
                    "zero and transparency are ignored; paint white what is to be used"
                )
        notes = ImageNotes(None if limits is None else (limits.black, limits.white), frame)
        return loaded, usable, notes


def _size_in_batch(loaded: _Loaded | str) -> tuple[int, ...] | None:
    """Return the size of an image all of whose pixels are used; others are extracted alone."""
    if isinstance(loaded, str) or loaded[1] is not None:
        return None
    return tuple(loaded[0].pixels.shape)


def _num_pixels(loaded: _Loaded | str) -> int:
    return 0 if isinstance(loaded, str) else math.prod(loaded[0].pixels.shape[:2])


def changed_while(image: ImageFile) -> str:
    """Return why an image is skipped whose file was written each time that it was read."""
    return (
        f"{printable(image.path)} or its mask changed while it was read; give the same command "
        "again when it is written"
    )


def _stamp(image: ImageFile) -> SourceStamps | None:
    """None where a file cannot be read: reading it as an image says why."""
    try:
        return SourceStamps.of(image.path, image.mask, image.mask_frame)
    except OSError:
        return None


def _to_arrays(features: Features, notes: ImageNotes, stamps: SourceStamps) -> FeatureArrays:
    keypoints = features.keypoints
    return FeatureArrays(
        xy=keypoints.xy.numpy(),
        scale=keypoints.scale.numpy(),
        angle=keypoints.angle.numpy(),
        score=keypoints.score.numpy(),
        descriptors=features.descriptors.numpy(),
        image_size=features.image_size,
        notes=notes,
        stamps=stamps,
    )
