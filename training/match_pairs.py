"""Image pairs with matches of which is known whether they are right; a cache of them on disk.

The matches are what the package itself finds: its features, and mutual nearest neighbours. A pair
is a file, and finished ones are not made again.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rekd_hloc.files import atomic_write
from rekd_hloc.geometry import wrap_angle
from rekd_hloc.images import read_image
from rekd_hloc.matching.match_evidence import MatchEvidence
from rekd_hloc.matching.match_network import gather_evidence
from rekd_hloc.matching.nearest import scan_nearest
from rekd_hloc.refinement.pairs import refine
from rekd_hloc.refinement.pyramid import ImagePyramid
from rekd_hloc.types import Features

EVIDENCE = tuple(field.name for field in fields(MatchEvidence) if field.name != "extra")
CORRELATION = ("correlation", "is_refined")
"""What the images say of a match after they were aligned about it."""
Images = tuple[ImagePyramid, ImagePyramid]


@dataclass(frozen=True, eq=False)
class LabelledPair:
    """The matches of a pair.

    Attributes:
        evidence: what is known of the matches.
        is_right: which of them are right.
        is_known: which of them can be told; the others do not count.
        is_rigid: whether one epipolar geometry holds for the right ones.
    """

    evidence: MatchEvidence
    is_right: Bool[Tensor, " match"]
    is_known: Bool[Tensor, " match"]
    is_rigid: bool

    def __len__(self) -> int:
        return len(self.evidence)

    def __getitem__(self, index: Tensor) -> Self:
        """Return some of the matches."""
        return replace(
            self,
            evidence=self.evidence[index],
            is_right=self.is_right[index],
            is_known=self.is_known[index],
        )

    def save(self, path: Path) -> None:
        """Write the pair whole or not at all."""
        arrays: dict[str, Any] = {
            name: getattr(self.evidence, name).float().numpy() for name in EVIDENCE
        }
        if self.evidence.extra is not None:
            arrays["extra"] = self.evidence.extra.float().numpy()
        arrays |= {"is_right": self.is_right.numpy(), "is_known": self.is_known.numpy()}
        with atomic_write(path) as scratch, scratch.open("wb") as file:
            np.savez(file, is_rigid=np.array(self.is_rigid), **arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a pair."""
        with np.load(path) as arrays:
            extra = ("extra",) if "extra" in arrays else ()
            evidence = MatchEvidence(
                **{name: torch.from_numpy(arrays[name]).double() for name in (*EVIDENCE, *extra)}
            )
            return cls(
                evidence,
                is_right=torch.from_numpy(arrays["is_right"]),
                is_known=torch.from_numpy(arrays["is_known"]),
                is_rigid=bool(arrays["is_rigid"]),
            )

    def swapped(self) -> Self:
        """Return the pair with its images exchanged."""
        parts = {
            name: getattr(self.evidence, name).flip(1) for name in EVIDENCE if name != "cosine"
        }
        return replace(self, evidence=replace(self.evidence, **parts))

    def reflected(self) -> Self:
        """Return the pair of both images as a mirror shows them."""
        xy = self.evidence.xy * torch.tensor([-1.0, 1.0])
        angle = wrap_angle(math.pi - self.evidence.angle)
        return replace(self, evidence=replace(self.evidence, xy=xy, angle=angle))


def match_features(
    a: Features, b: Features, images: Images | None = None
) -> tuple[Tensor, MatchEvidence]:
    """Return the mutual nearest neighbours of two images, and what is known of them.

    Args:
        a: features of image a.
        b: features of image b.
        images: both images, where :data:`CORRELATION` is to be known, too.
    """
    scan = scan_nearest(a.descriptors, b.descriptors)
    matches = scan.mutual()
    evidence = gather_evidence(matches, a, b, scan)
    if images is None:
        return matches.index, evidence
    found = refine(*images, a.keypoints, b.keypoints, matches)
    extra = torch.stack([found.zncc.double(), found.is_refined.double()], dim=1)
    return matches.index, replace(evidence, extra=extra)


def read_pyramid(path: Path) -> ImagePyramid:
    """Read a photo as matches are aligned in it."""
    return ImagePyramid.of(read_image(path))


def strongest(features: Features, count: int) -> Features:
    """Return the keypoints of the highest scores."""
    order = features.keypoints.strongest(count)
    return Features(
        features.keypoints[order], features.descriptors[order].float(), features.image_size
    )


def unrelated_pair(a: Features, b: Features, images: Images | None = None) -> LabelledPair:
    """Return the matches of two images that show nothing in common: all of them are wrong."""
    _, evidence = match_features(a, b, images)
    none = torch.zeros(len(evidence), dtype=torch.bool)
    return LabelledPair(evidence, none, ~none, is_rigid=False)


def load_or_make(
    folder: Path, kind: str, make: Callable[[], Iterator[LabelledPair]]
) -> list[LabelledPair]:
    """Read the pairs of a kind, or make them.

    Args:
        folder: of the cache; its name says what the pairs are made of.
        kind: begins the names of the files.
        make: yields the pairs, the same each time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / f"{kind}.done"
    if not done.is_file():
        for number, pair in enumerate(make()):
            path = folder / f"{kind}-{number:05d}.npz"
            if not path.is_file():
                pair.save(path)
        done.touch()
    return [LabelledPair.load(path) for path in sorted(folder.glob(f"{kind}-*.npz"))]


def draw_training_pair(
    rng: np.random.Generator, pair: LabelledPair, max_matches: int
) -> LabelledPair:
    """Draw what a step sees of a pair: exchanged, reflected, some or most matches left out."""
    if rng.random() < 0.5:
        pair = pair.swapped()
    if rng.random() < 0.5:
        pair = pair.reflected()
    kept = torch.from_numpy(rng.random(len(pair)) < rng.uniform(0.6, 1.0))
    pair = pair[torch.nonzero(kept)[:, 0]]
    if len(pair) > max_matches:
        distance = _distance_from_one(rng, pair.evidence.xy[:, int(rng.integers(2))])
        pair = pair[distance.argsort()[:max_matches].sort().values]
    return pair


def _distance_from_one(
    rng: np.random.Generator, xy: Float[Tensor, "match 2"]
) -> Float[Tensor, " match"]:
    centre = xy[int(rng.integers(len(xy)))]
    distance: Tensor = (xy - centre).norm(dim=1)
    return distance
