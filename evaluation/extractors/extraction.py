"""Features of a scene's images by one method, kept in a file that a hash of everything names.

What was extracted is there for the next run, for other pairs, seeds and matchers, and for the
multiview task and the submission.
"""

import hashlib
import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from evaluation.extractors.cache import file_digest, safe_name
from evaluation.extractors.registry import NamedExtractor
from rekd_hloc.images import read_mask
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Features

DIGEST_LETTERS = 12


@dataclass(frozen=True)
class Extracted:
    """What :func:`extract_images` did.

    Attributes:
        path: file of features by image name, in hloc's schema.
        num_extracted: images that this run extracted; the others were there.
        seconds: that it took for them, without reading what was there.
    """

    path: Path
    num_extracted: int
    seconds: float


def extract_images(
    images: Mapping[str, Path],
    method: NamedExtractor,
    folder: Path,
    *,
    wanted: Collection[str] | None = None,
    masks: Mapping[str, Path] | None = None,
    label: str = "",
) -> Extracted:
    """Extract images that are not in the method's file yet.

    Args:
        images: path of every image of the scene by its name in the file; another list, or images
            with other bytes, take another file of features.
        method: what extracts.
        folder: for the file.
        wanted: names to extract; None for all.
        masks: of images that are valid in part only: keypoints elsewhere are dropped.
        label: of the scene, part of the file's name.

    Raises:
        ValueError: an image cannot be read, or its mask is of another size.
        OSError: the file cannot be written.
    """
    masks = masks or {}
    provenance = {**method.provenance, "images": _fingerprint(images, masks, label)}
    path = folder / f"{safe_name(label)}-{safe_name(method.name)}-{digest_of(provenance)}.h5"
    folder.mkdir(parents=True, exist_ok=True)
    num_extracted, seconds = 0, 0.0
    with FeatureStore.resume(path, provenance) as store:
        missing = [n for n in images if (wanted is None or n in wanted) and n not in store]
        bar = tqdm(missing, f"{label} {method.name}", unit="image", disable=None, leave=False)
        for name in bar:
            start = time.perf_counter()
            features = method(images[name])
            seconds += time.perf_counter() - start
            if name in masks:
                features = drop_masked(features, masks[name])
            store.write(name, features)
            num_extracted += 1
    return Extracted(path, num_extracted, seconds)


def drop_masked(features: Features, mask_path: Path) -> Features:
    """The features whose keypoint lies on a pixel that the mask allows.

    Raises:
        ValueError: the mask is of another size than the image.
    """
    usable = torch.from_numpy(read_mask(mask_path))
    width, height = features.image_size
    if tuple(usable.shape) != (height, width):
        raise ValueError(f"mask {mask_path} has another size than its image: {width} x {height}")
    pixel = features.keypoints.xy.round().long()
    inside = ((pixel >= 0) & (pixel < torch.tensor([width, height]))).all(dim=1)
    pixel = pixel.clamp(min=0).minimum(torch.tensor([width - 1, height - 1]))
    keep = inside & usable[pixel[:, 1], pixel[:, 0]]
    return replace(
        features, keypoints=features.keypoints[keep], descriptors=features.descriptors[keep]
    )


def digest_of(values: Mapping[str, object]) -> str:
    """A short hash of values that JSON can hold; their order does not matter."""
    text = json.dumps(dict(values), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LETTERS]


def _fingerprint(images: Mapping[str, Path], masks: Mapping[str, Path], label: str) -> str:
    """Changes with the names and bytes of files; a copy elsewhere or a new date keeps it."""
    files = {f"image {name}": path for name, path in images.items()}
    files |= {f"mask {name}": path for name, path in masks.items()}
    bar = tqdm(files.items(), f"{label} read", unit="file", disable=None, leave=False)
    return digest_of({name: file_digest(path) for name, path in bar})


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels, from the file's header.

    Raises:
        ValueError: it is no image.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise ValueError(f"{path} is no image that can be read: {error}") from error
