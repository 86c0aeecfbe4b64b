"""A guide to a scene without a reconstruction: counts of mutual nearest descriptors.

Counting them costs little, next to a learned matcher. Descriptors that are not invariant to
rotation also say how photos are rotated: small copies of the second photo are described at all four
quarter turns, and one of them has more mutual neighbours than the others.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.extractors.named_extractor import NamedExtractor
from rekd_hloc.matching.nearest import match_nearest
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Features, Pair
from training.scenes.teacher import MIN_VOTES, QUARTER, Guide, upright_extractor

RATIO = 0.95
"""A neighbour that counts is nearer than the second nearest by that factor."""
SMALL_SIDE_PX = 512
"""Longer side of the copies that rotations are looked for in."""


def guide_by_features(features: Path) -> Guide:
    """Count the mutual nearest neighbours of all pairs in a features file; no rotations.

    Raises:
        FileNotFoundError: no such file.
    """
    with FeatureStore(features) as store:
        described = {name: store.read(name) for name in store.names()}
    counts: dict[Pair, int] = {
        (a, b): count_mutual(described[a], described[b])
        for a, b in combinations(sorted(described), 2)
    }
    return Guide(counts, {})


def guide_by_quarter_turns(
    images: Path, names: Sequence[str], folder: Path, base: NamedExtractor
) -> Guide:
    """Find by which quarter turn photos are rotated against each other.

    Args:
        images: folder of photos.
        names: of the photos.
        folder: where the features of each turn are written, or gone on with.
        base: extractor for upright photos.

    Returns:
        Of each pair by how many neighbours the best turn exceeds the median of the four, and that
        turn, if it exceeds by ``MIN_VOTES``.

    Raises:
        FileNotFoundError, ValueError, OSError: as :func:`extract_images`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described: list[dict[str, Features]] = []
    for turns in range(4):
        path = folder / f"turned-{turns}.h5"
        extract_images(
            upright_extractor(small_extractor(base), turns), images, path, names=names,
            progress=True,
        )  # fmt: skip
        with FeatureStore(path) as store:
            described.append({name: store.read(name) for name in store.names()})
    counts: dict[Pair, int] = {}
    rotations: dict[Pair, float] = {}
    for a, b in combinations(sorted(described[0]), 2):
        found = [
            count_mutual(described[0][a], described[turns][b])
            + count_mutual(described[-turns % 4][a], described[0][b])
            for turns in range(4)
        ]
        counts[a, b] = int(max(found) - np.median(found)) // 2
        if counts[a, b] >= MIN_VOTES:
            rotations[a, b] = int(np.argmax(found)) * QUARTER
    return Guide(counts, rotations)


def count_mutual(a: Features, b: Features) -> int:
    """Count the descriptors that are each other's nearest, by a margin."""
    return len(match_nearest(a.descriptors, b.descriptors, ratio=RATIO))


def small_extractor(base: NamedExtractor) -> NamedExtractor:
    """Return the extractor for small copies of photos; keypoints lie in the photo itself."""

    def extract(image: NDArray[np.uint8]) -> Features:
        height, width = image.shape[:2]
        factor = min(SMALL_SIDE_PX / max(width, height), 1.0)
        small_size = max(round(width * factor), 1), max(round(height * factor), 1)
        small = cv2.resize(image, small_size, interpolation=cv2.INTER_AREA)
        features = base.extract(small)
        stretch = torch.tensor([width / small_size[0], height / small_size[1]])
        keypoints = features.keypoints
        keypoints = replace(keypoints, xy=(keypoints.xy + 0.5) * stretch - 0.5)
        return replace(features, keypoints=keypoints, image_size=(width, height))

    provenance = {**base.provenance, "longer_side_px": str(SMALL_SIDE_PX)}
    return replace(base, extract=extract, provenance=provenance)
