"""A folder of images becomes one file of features.

One bad file never ends a run: it is skipped, and the summary says why. What is finished is kept
whenever and however a run ends, and the next one goes on from there; images that changed since, or
whose masks did, are extracted again. Images may be extracted by many workers, while this process
alone writes the file.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from rekd_hloc.names import one_line
from rekd_hloc.progress import progress_bar
from rekd_hloc.sfm.changed_images import find_changed, find_removed
from rekd_hloc.sfm.image_folder import check_names, check_still_there, find_mask, is_there
from rekd_hloc.sfm.image_notes import ImageNotes, warn_of_notes
from rekd_hloc.sfm.image_work import FeatureArrays, ImageExtractor, ImageFile, ImageWork
from rekd_hloc.sfm.mask_frames import AUTO, check_mask_frame
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.storage.names import names_by_key
from rekd_hloc.types import Features, Keypoints

logger = logging.getLogger(__name__)

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
        skipped: images without features, and photos that are not used; why, and what to do.
        num_resumed: of ``names``, how many were in the file before, and have not changed since.
        seconds: this run took.
        num_keypoints: of each image in ``names``.
        value_ranges: the values that became black and white, of images that are not of 8 bits.
        mask_frames: of images that EXIF rotates, the pixel grid that their masks were taken to
            have: ``file``, ``upright``, or ``either`` where both fit and the file's was taken.
        changed: of ``names``, those that were extracted again because the image or its mask is
            another than before.
        removed: images in the file that are not in the folder any more, and not in ``names``.
        added: of ``names``, those that were not in the file, where other images were.
    """

    names: list[str]
    skipped: dict[str, str]
    num_resumed: int
    seconds: float
    num_keypoints: dict[str, int]
    value_ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    mask_frames: dict[str, str] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)

    @property
    def num_changed(self) -> int:
        """Return how many images were extracted again."""
        return len(self.changed)

    @property
    def notes(self) -> dict[str, Any]:
        """Return how images were read, and what is other than in the run before, for a report."""
        return {
            "value_ranges": self.value_ranges,
            "mask_frames": self.mask_frames,
            "num_changed": self.num_changed,
            "changed": self.changed,
            "removed": self.removed,
            "added": self.added,
        }


def extract_images(
    extractor: ImageExtractor,
    image_dir: Path,
    out: Path,
    *,
    names: Sequence[str] | None = None,
    mask_dir: Path | None = None,
    mask_frame: str = AUTO,
    overwrite: bool = False,
    progress: bool = False,
    map_images: MapImages = map,
) -> ExtractionSummary:
    """Extract features of all images in a folder into an HDF5 file of hloc's form.

    Args:
        extractor: image to features.
        image_dir: searched with its subfolders.
        out: file to write, or to go on with if it was made with the same options.
        names: images to take, relative to ``image_dir``; all when None, and then the summary's
            ``skipped`` tells as well what looks like a photo there and is not used.
        mask_dir: masks as COLMAP's, one for each image: ``NAME.png`` with NAME including its
            suffix, or NAME with ``.png`` for its suffix; zero where to ignore.
        mask_frame: the pixel grid of masks whose images EXIF rotates: ``file``, ``upright``, or
            ``auto`` to decide by their sizes and EXIF.
        overwrite: replace ``out`` instead of going on with it.
        progress: show a bar on stderr.
        map_images: as for :func:`extract_files`.

    Raises:
        FileNotFoundError: no such folder, or one of ``names`` is not in it; or most images are gone
            before their turn.
        ValueError: the folder holds no image, no such ``mask_frame``, or ``out`` was made with
            other options.
        OSError: ``out`` cannot be written, or the disk is full; what was finished is kept.
    """
    check_mask_frame(mask_frame)
    listing = check_names(image_dir, names, mask_dir)
    _warn_of_collision(listing.images)
    summary = extract_files(
        extractor,
        [
            ImageFile(name, image_dir / name, _mask(mask_dir, name), mask_frame)
            for name in listing.images
        ],
        out,
        folder=image_dir,
        overwrite=overwrite,
        progress=progress,
        map_images=map_images,
    )
    return replace(summary, skipped={**summary.skipped, **listing.unused})


def extract_files(
    extractor: ImageExtractor,
    images: Sequence[ImageFile],
    out: Path,
    *,
    provenance: Mapping[str, str] | None = None,
    folder: Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
    label: str = "extract",
    map_images: MapImages = map,
) -> ExtractionSummary:
    """Extract features of image files, wherever they lie, into an HDF5 file of hloc's form.

    An image in ``out`` is kept if its file and its mask are those that its features were made from,
    by their stamps (:mod:`rekd_hloc.storage.stamps`).

    Args:
        extractor: image to features.
        images: each with a name of its own.
        out: file to write, or to go on with if it was made with the same options.
        provenance: what else the features depend on; recorded beside the extractor's own.
        folder: of the images; those in ``out`` that are not in it any more are reported.
        overwrite: replace ``out`` instead of going on with it.
        progress: show a bar on stderr.
        label: of the bar.
        map_images: applies a function to images. The builtin ``map`` extracts here, on the threads
            of ``extractor.num_workers``; with one, others read the next ``extractor.num_readers``
            images meanwhile. ``Executor.map`` of threads or processes
            reads and extracts on many workers. Results must come in order. Function, images and
            results can be pickled if the extractor can, which is pickled with each image for other
            processes. Only the calling process writes ``out``, which is the same file for every
            ``map``.

    Raises:
        ValueError: ``out`` was made with other options.
        FileNotFoundError: most images are gone before their turn.
        OSError: ``out`` cannot be written, or the disk is full; what was finished is kept.
    """
    start = time.perf_counter()
    skipped: dict[str, str] = {}
    counts: dict[str, int] = {}
    notes: dict[str, ImageNotes] = {}
    made_with = {**extractor.provenance, **(provenance or {})}
    with FeatureStore.resume(out, made_with, overwrite=overwrite) as store:
        stored = [image for image in images if image.name in store]
        changed = dict.fromkeys(find_changed(store, stored))
        resumed = dict.fromkeys(i.name for i in stored if i.name not in changed)
        missing = [image for image in images if image.name not in resumed]
        removed = find_removed(store, {i.name for i in images}, folder) if folder else []
        if missing:
            store.require_writable()
        bar = progress_bar(missing, label, unit=" images", shown=progress)
        work = ImageWork(extractor)
        results = work.extract_here(missing) if map_images is map else map_images(work, missing)
        for image, result in zip(bar, results, strict=True):
            if isinstance(result, str):
                skipped[image.name] = one_line(_explain(result, image.name in changed, out))
                if not is_there(image.path):
                    check_still_there([other.path for other in images], out)
                logger.info("skipped %s: %s", image.name, skipped[image.name])
            else:
                features = _to_features(result)
                store.write(image.name, features, attributes=result.attributes)
                counts[image.name] = len(features)
                notes[image.name] = result.notes
        warn_of_notes(notes)
        counts |= {name: len(store.read(name)) for name in resumed}
        notes |= {name: ImageNotes.from_attributes(store.attributes(name)) for name in resumed}
    names = [image.name for image in images if image.name in counts]
    seconds = time.perf_counter() - start
    num_keypoints = {name: counts[name] for name in names}
    return ExtractionSummary(
        names, skipped, len(resumed), seconds, num_keypoints,
        value_ranges={name: limits for name in names if (limits := notes[name].value_range)},
        mask_frames={name: frame for name in names if (frame := notes[name].mask_frame)},
        changed=[name for name in changed if name in counts], removed=removed,
        added=[n for n in names if n not in resumed and n not in changed] if stored else [],
    )  # fmt: skip


def _explain(reason: str, has_changed: bool, out: Path) -> str:
    """What was computed is never deleted, and never passes for the image of now."""
    if not has_changed:
        return reason
    return f"{reason}; it changed since, and its features in {out.name} are of what it was before"


def _warn_of_collision(names: Sequence[str]) -> None:
    """Say before hours of extraction that two names cannot both be matched."""
    try:
        names_by_key(names)
    except ValueError as error:
        logger.warning("%s before these features are matched", error)


def _mask(mask_dir: Path | None, name: str) -> Path | None:
    return None if mask_dir is None else find_mask(mask_dir, name)


def _to_features(arrays: FeatureArrays) -> Features:
    tensors = map(torch.from_numpy, (arrays.xy, arrays.scale, arrays.angle, arrays.score))
    return Features(Keypoints(*tensors), torch.from_numpy(arrays.descriptors), arrays.image_size)
