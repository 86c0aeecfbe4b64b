"""Batches of patch pairs, drawn from the tracks of all training images and scenes.

A batch is a pure function of the seed and the step. Its composition decides which negatives the
loss finds: those of the same image are the hardest, and scenes show changes that no warp makes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from training.patch_augmentation import PatchAugmentation, augment_patches
from training.places import Places, show_same_point

SITE = "site"
"""File in a scene's folder that names what its tracks show. Tracks of one scene that were made from
different models share the name, and are no negatives of one another."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class PatchPairs:
    """Hold two views of each track's point, and which rows must not serve as negatives.

    Attributes:
        a, b: patches in 0..1, a channel for each support.
        is_excluded: true where two rows show (nearly) the same point of one image or scene.
        places: where the rows lie.
    """

    a: Float[Tensor, "pair support 32 32"]
    b: Float[Tensor, "pair support 32 32"]
    is_excluded: Bool[Tensor, "pair pair"]
    places: Places


@dataclass(frozen=True)
class BatchPlan:
    """The composition of a batch."""

    batch_size: int = 512
    """Pairs in a step."""
    images: int = 16
    """Images that a batch is drawn from; with few, many negatives come from the same image."""
    rows_per_image: int = 0
    """Pairs that each image of a batch gives, if it has as many; takes the place of ``images``.
    Half of ``batch_size`` takes half of the negatives from the same image; 0 leaves it open."""
    scene_share: float | None = None
    """Share of pairs from scenes; empty draws their images like all others."""
    upright_share: float = 0.25
    """Share of pairs of upright patches."""
    exclusion: float = 0.1
    """Two points of an image or scene closer than this part of the larger patch's side are one."""
    augmentation: PatchAugmentation = field(default_factory=PatchAugmentation)
    """Augmentation of every patch."""

    def __post_init__(self) -> None:
        if self.batch_size < 2 or self.images < 1:
            raise ValueError(
                "batch_size must be at least 2 and images at least 1, got "
                f"{self.batch_size}, {self.images}"
            )
        if not 0 <= self.rows_per_image <= self.batch_size:
            raise ValueError(
                f"rows_per_image must be in 0..batch_size ({self.batch_size}), got "
                f"{self.rows_per_image}"
            )
        if self.scene_share is not None and not 0 <= self.scene_share <= 1:
            raise ValueError(f"scene_share must be in [0, 1], got {self.scene_share}")
        if not 0 <= self.upright_share <= 1:
            raise ValueError(f"upright_share must be in [0, 1], got {self.upright_share}")


class TrackSet:
    """All tracks in a folder, and in those of scenes.

    Args:
        folder: of the images' tracks.
        scenes: folders each of which holds the tracks of one scene in one frame.
        supports: factors on the patch's side that the tracks were cut with.

    Raises:
        ValueError: there are no tracks, or too few.
    """

    def __init__(
        self, folder: Path, scenes: Sequence[Path] = (), *, supports: Sequence[float] = (1.0,)
    ) -> None:
        sources = [(path.stem, path) for path in sorted(folder.glob("*.npz"))]
        num_plain = len(sources)
        sources += [(f"{scene}", path) for scene in scenes for path in sorted(scene.glob("*.npz"))]
        files = [np.load(path) for _, path in sources]
        self.patches = [np.load(path.with_suffix(".npy"), mmap_mode="r") for _, path in sources]
        self.supports = tuple(supports)
        counts = [len(file["side"]) for file in files]
        if sum(counts) < 2:
            raise ValueError(f"{folder} holds {sum(counts)} tracks; use more images with texture")
        self.file = np.repeat(np.arange(len(files)), counts)
        self.is_scene = self.file >= num_plain
        frames = np.unique([frame for frame, _ in sources], return_inverse=True)[1]
        self.frame = np.repeat(frames, counts)
        sites = [
            _site(path.parent) if n >= num_plain else name for n, (name, path) in enumerate(sources)
        ]
        self.site = np.repeat(np.unique(sites, return_inverse=True)[1], counts)
        self.first = np.concatenate([file["start"][:-1] for file in files])
        self.length = np.concatenate([np.diff(file["start"]) for file in files])
        self.position = np.concatenate([file["place"] for file in files])
        self.side = np.concatenate([file["side"] for file in files])
        self.is_upright = np.concatenate([file["is_upright"] for file in files])

    def __len__(self) -> int:
        """Return number of tracks."""
        return len(self.file)

    @property
    def num_patches(self) -> int:
        """Return number of patches of all tracks."""
        return int(self.length.sum())

    def batch(self, rng: np.random.Generator, plan: BatchPlan) -> PatchPairs:
        """Draw two different views of each of some tracks."""
        tracks = self.draw_tracks(rng, plan)
        first = (rng.random(len(tracks)) * self.length[tracks]).astype(np.int64)
        step = 1 + (rng.random(len(tracks)) * (self.length[tracks] - 1)).astype(np.int64)
        second = (first + step) % self.length[tracks]
        a, b = (self._read(tracks, view) for view in (first, second))
        a, b = _rotate_alike(rng, a, b, self.is_upright[tracks])
        values_a, values_b = (
            augment_patches(rng, patches, plan.augmentation, supports=self.supports)
            for patches in (a, b)
        )
        places = self.places(tracks)
        return PatchPairs(
            a=_with_channels(values_a),
            b=_with_channels(values_b),
            is_excluded=show_same_point(places, places, plan.exclusion),
            places=places,
        )

    def places(self, tracks: Rows) -> Places:
        """Return where some tracks lie."""
        return Places(
            frame=torch.from_numpy(self.frame[tracks].astype(np.int64)),
            position=torch.from_numpy(self.position[tracks].astype(np.float32)),
            side=torch.from_numpy(self.side[tracks].astype(np.float32)),
            site=torch.from_numpy(self.site[tracks].astype(np.int64)),
        )

    def draw_tracks(self, rng: np.random.Generator, plan: BatchPlan) -> Rows:
        """Draw the tracks of a batch, no track twice."""
        everyone = np.ones(len(self), dtype=bool)
        if plan.scene_share is None:
            return self._draw_part(rng, plan, everyone, plan.batch_size, plan.images)
        parts = []
        for is_scene in (False, True):
            share = plan.scene_share if is_scene else 1 - plan.scene_share
            wanted = round(plan.batch_size * share)
            num_images = max(round(plan.images * share), 1)
            parts.append(self._draw_part(rng, plan, self.is_scene == is_scene, wanted, num_images))
        drawn = np.concatenate(parts)
        lacking = plan.batch_size - len(drawn)
        if lacking > 0:  # one of the kinds has too few tracks, or none
            left = everyone.copy()
            left[drawn] = False
            added = self._draw_part(rng, plan, left, lacking, plan.images)
            drawn = np.concatenate([drawn, added])
        return drawn

    def _draw_part(
        self,
        rng: np.random.Generator,
        plan: BatchPlan,
        allowed: NDArray[np.bool_],
        wanted: int,
        num_images: int,
    ) -> Rows:
        if plan.rows_per_image:
            return self._draw_from_few_images(rng, plan, allowed, wanted)
        chosen: list[Rows] = [np.zeros(0, np.int64)]
        for is_upright in (False, True):
            share = plan.upright_share if is_upright else 1 - plan.upright_share
            missing = round(wanted * share)
            members = np.flatnonzero(allowed & (self.is_upright == is_upright))
            if missing == 0 or len(members) == 0:
                continue
            files = rng.permutation(np.unique(self.file[members]))
            for group in (files[i : i + num_images] for i in range(0, len(files), num_images)):
                pool = members[np.isin(self.file[members], group)]
                taken = rng.permutation(pool)[:missing]
                chosen.append(taken)
                missing -= len(taken)
                if missing == 0:
                    break
        return np.concatenate(chosen)

    def _draw_from_few_images(
        self, rng: np.random.Generator, plan: BatchPlan, allowed: NDArray[np.bool_], wanted: int
    ) -> Rows:
        """Let each image give ``rows_per_image`` pairs; those that have as many come first."""
        members = np.flatnonzero(allowed)
        counts = np.bincount(self.file[members], minlength=len(self.patches))
        files = rng.permutation(np.flatnonzero(counts))
        quota = min(plan.rows_per_image, max(wanted, 1))
        files = files[np.argsort(counts[files] < quota, kind="stable")]
        # what is left over goes to the same images: one with a handful of rows has no negatives
        quota = -(-wanted // max(wanted // quota, 1))
        chosen: list[Rows] = [np.zeros(0, np.int64)]
        missing = wanted
        for file in files:
            pool = rng.permutation(members[self.file[members] == file])
            is_upright = self.is_upright[pool]
            count = min(quota, missing, len(pool))
            num_upright = min(round(count * plan.upright_share), int(is_upright.sum()))
            num_upright = max(num_upright, count - int((~is_upright).sum()))
            chosen += [pool[~is_upright][: count - num_upright], pool[is_upright][:num_upright]]
            missing -= count
            if missing == 0:
                break
        if missing > 0:  # every image gave its part
            left = np.setdiff1d(members, np.concatenate(chosen))
            chosen.append(rng.permutation(left)[:missing])
        return np.concatenate(chosen)

    def _read(self, tracks: Rows, view: Rows) -> NDArray[np.uint8]:
        rows = self.first[tracks] + view
        picked = [self.patches[p][row] for p, row in zip(self.file[tracks], rows, strict=True)]
        return np.stack(picked)


def _site(folder: Path) -> str:
    """What a scene's tracks show; without a note of it they are a site of their own."""
    note = folder / SITE
    return note.read_text() if note.is_file() else str(folder)


def _rotate_alike(
    rng: np.random.Generator,
    a: NDArray[np.uint8],
    b: NDArray[np.uint8],
    is_upright: NDArray[np.bool_],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Mirror both patches of a pair alike, and unless upright rotate them by quarter turns."""
    a, b = a.copy(), b.copy()
    mirrored = rng.random(len(a)) < 0.5
    quarters = rng.integers(4, size=len(a)) * ~is_upright
    for patches in (a, b):
        patches[mirrored] = patches[mirrored][..., ::-1]
        for quarter in (1, 2, 3):
            chosen = quarters == quarter
            patches[chosen] = np.rot90(patches[chosen], quarter, axes=(-2, -1))
    return a, b


def _with_channels(patches: NDArray[np.float32]) -> Float[Tensor, "pair support 32 32"]:
    """Patches of one support are stored without an axis for it."""
    side = patches.shape[-1]
    return torch.from_numpy(patches.reshape(len(patches), -1, side, side))
