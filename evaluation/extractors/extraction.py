"""Features of named image files, extracted by the package's own loop and cached.

The file's name holds a hash of everything that features depend on: the extractor, and the names and
bytes of images and masks. What was extracted is there for the next run, for other pairs, seeds and
matchers; another configuration, other weights or other images take another file.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from evaluation.extractors.named_extractor import NamedExtractor
from rekd_hloc.sfm.extraction import extract_files
from rekd_hloc.sfm.image_work import ImageFile
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Features

DIGEST_LETTERS = 12
MASKED = "whole patches"
"""What masked features lack; older files lack keypoint centres only, and are not gone on with."""


@dataclass(frozen=True)
class Extracted:
    """What :func:`extract_images` did.

    Attributes:
        path: file of features by image name, in hloc's schema.
        num_extracted: images that this run extracted; the others were there.
        seconds: that this run took.
        num_keypoints: of each image that was wanted.
    """

    path: Path
    num_extracted: int
    seconds: float
    num_keypoints: Mapping[str, int]


def extract_images(
    images: Mapping[str, Path],
    extractor: NamedExtractor,
    folder: Path,
    *,
    wanted: Collection[str] | None = None,
    masks: Mapping[str, Path] | None = None,
    label: str = "",
) -> Extracted:
    """Extract images that are not in the extractor's file yet.

    Args:
        images: path of every image of the scene by its name in the file; another list, or images
            with other bytes, take another file of features.
        extractor: from an image to its features.
        folder: for the file.
        wanted: names to extract; None for all.
        masks: of images that are valid in part only: no patch touches a pixel where they are zero.
        label: of the scene, part of the file's name.

    Raises:
        ValueError: an image cannot be read, or its mask is of another size.
        OSError: the file cannot be written.
    """
    masks = masks or {}
    provenance = {**extractor.provenance, "images": _fingerprint(images, masks, label)}
    if masks:
        provenance["masks"] = MASKED
    used = {name: path for name, path in images.items() if wanted is None or name in wanted}
    extractor = replace(extractor, provenance=provenance)
    return _extract(used, masks, extractor, folder, label, progress=True)


def extract_by_content(
    images: Mapping[str, Path], extractor: NamedExtractor, folder: Path, *, label: str
) -> dict[str, Features]:
    """Extract images that may change or become more from run to run.

    Args:
        images: path of each image by its name.
        extractor: from an image to its features.
        folder: for the file. Features lie in it under a hash of the image's bytes and its name.
        label: part of the file's name; two threads must not use one label at a time.

    Returns:
        Features by image name. They were read from the file, as those of a resumed run are.

    Raises:
        ValueError: an image cannot be read.
        OSError: the file cannot be written.
    """
    keys = {name: f"{file_digest(path)[:DIGEST_LETTERS]}/{name}" for name, path in images.items()}
    by_key = {keys[name]: path for name, path in images.items()}
    extracted = _extract(by_key, {}, extractor, folder, label, progress=False)
    with FeatureStore(extracted.path) as store:
        return {name: store.read(key) for name, key in keys.items()}


def _extract(
    images: Mapping[str, Path],
    masks: Mapping[str, Path],
    extractor: NamedExtractor,
    folder: Path,
    label: str,
    *,
    progress: bool,
) -> Extracted:
    stem = "-".join(filter(None, (safe_name(label), safe_name(extractor.name))))
    path = folder / f"{stem}-{digest_of(extractor.provenance)}.h5"
    folder.mkdir(parents=True, exist_ok=True)
    files = [ImageFile(name, path, masks.get(name)) for name, path in images.items()]
    summary = extract_files(
        extractor, files, path, progress=progress, label=f"{label} {extractor.name}"
    )
    if summary.skipped:
        name, reason = next(iter(summary.skipped.items()))
        raise ValueError(f"{name}: {reason}")
    num_extracted = len(summary.names) - summary.num_resumed
    return Extracted(path, num_extracted, summary.seconds, summary.num_keypoints)


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) in pixels, from the file's header.

    Raises:
        ValueError: the file is no image.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise ValueError(f"{path} is no image that can be read: {error}") from error


def image_key(path: Path) -> str:
    """Return folder and name of an image file, as its name among files of several folders."""
    return f"{path.parent.name}/{path.name}"


def safe_name(name: str) -> str:
    """Return an extractor's or a scene's name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", name)[-60:]


def digest_of(values: Mapping[str, object]) -> str:
    """Return a short hash of values that JSON can hold; their order does not matter."""
    text = json.dumps(dict(values), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LETTERS]


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, which is read once in a process unless size or date change."""
    state = path.stat()
    return _digest_of_file(path, state.st_size, state.st_mtime_ns)


def digest_of_files(paths: Iterable[Path]) -> str:
    """Return twelve hexadecimal digits of the bytes of files, in the order given.

    Raises:
        FileNotFoundError: one of them is not there.
    """
    joined = b"".join(bytes.fromhex(file_digest(path)) for path in paths)
    return hashlib.sha256(joined).hexdigest()[:12]


@cache
def _digest_of_file(path: Path, _size: int, _time_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fingerprint(images: Mapping[str, Path], masks: Mapping[str, Path], label: str) -> str:
    """Changes with the names and bytes of files; a copy elsewhere or a new date keeps it."""
    files = {f"image {name}": path for name, path in images.items()}
    files |= {f"mask {name}": path for name, path in masks.items()}
    bar = tqdm(files.items(), f"{label} read", unit="file", disable=None, leave=False)
    return digest_of({name: file_digest(path) for name, path in bar})
