"""Tracks of all training images and scenes on disk, and batches of patch pairs drawn from them.

Each image has two files; the second one is written last and marks the image as done. A batch is a
pure function of the seed and the step.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from evaluation.image_folders import images_hash
from rekd_hloc.features.detector.detect import Detector
from rekd_hloc.files import atomic_write
from rekd_hloc.images import ImageReadError, read_color
from rekd_hloc.renamed_options import config_of_version_0_1
from training.common.checkpoint import claim_folder, make_identity
from training.patch_augmentation import PatchAugmentation, augment_patches
from training.scene_tracks import SceneConfig, make_scene_tracks, scene_hash
from training.tracks import TrackConfig, Tracks, make_tracks

logger = logging.getLogger(__name__)

VERSION = 2
"""Version of the files."""
DONE = "done"
"""File that marks a scene's folder as complete."""
NAMES_IN_HASH = {"size_factors": "finer"}
"""Options of tracks by the names that they had when version 2 began. The name of a scene's folder
is a hash of all options in their old names, and must stay the same."""


@dataclass(frozen=True)
class PatchPairs:
    """Hold two views of each track's point, and which rows must not serve as negatives.

    Attributes:
        a, b: patches in 0..1.
        is_excluded: true where two rows show (nearly) the same point of one image or scene.
    """

    a: Float[Tensor, "pair 1 32 32"]
    b: Float[Tensor, "pair 1 32 32"]
    is_excluded: Bool[Tensor, "pair pair"]


def generate_tracks(
    folder: Path,
    paths: Sequence[Path],
    detector: Detector,
    config: TrackConfig,
    *,
    detector_hash: str,
    seed: int,
    quiet: bool = False,
) -> None:
    """Write the tracks of all images, or those of them that are missing.

    Raises:
        ValueError: the folder holds tracks of another configuration, detector or data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"tracks": asdict(config), "detector": detector_hash, "seed": seed}
    identity = make_identity(settings, (), version=VERSION, data_hash=images_hash(paths))
    claim_folder(folder / "config.json", identity)
    for index, path in enumerate(tqdm(paths, disable=quiet, unit="image")):
        if (folder / f"{index:05d}.npz").is_file():
            continue
        try:
            image = read_color(path)
        except ImageReadError as error:
            logger.warning("skipped: %s", error)
            continue
        # the image's name and not its number: its tracks do not depend on the other images
        rng = np.random.default_rng([seed, *path.name.encode()])
        _write(folder / f"{index:05d}", make_tracks(image, detector, config, rng))


def generate_scene_tracks(
    folder: Path, scenes: SceneConfig, config: TrackConfig, *, seed: int, quiet: bool = False
) -> list[Path]:
    """Write the tracks of all scenes, or those of them that are missing.

    Returns:
        The folder of each scene's tracks, below ``folder``; its name is a hash of all that they
        depend on.

    Raises:
        FileNotFoundError, ValueError: as :func:`training.scene_tracks.make_scene_tracks`.
    """
    written = []
    sources = list(zip(scenes.folders, scenes.images, strict=True))
    for source, images in tqdm(sources, disable=quiet or not sources, unit="scene"):
        content = scene_hash(Path(source))
        options = _with_names_in_hash(asdict(config))
        settings = [content, VERSION, seed, scenes.limits, options]
        name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
        if not (folder / name / DONE).is_file():
            rng = np.random.default_rng([seed, *content.encode()])
            parts = make_scene_tracks(Path(source), Path(images), config, scenes, rng)
            (folder / name).mkdir(parents=True, exist_ok=True)
            for index, tracks in enumerate(parts):
                _write(folder / name / f"{index:05d}", tracks)
            (folder / name / DONE).touch()
        written.append(folder / name)
    return written


def _with_names_in_hash(options: Mapping[str, Any]) -> dict[str, Any]:
    old = config_of_version_0_1(options)
    return {NAMES_IN_HASH.get(name, name): value for name, value in old.items()}


class TrackSet:
    """All tracks in a folder, and in those of scenes.

    Args:
        folder: of the images' tracks.
        scenes: folders each of which holds the tracks of one scene.

    Raises:
        ValueError: there are no tracks, or too few.
    """

    def __init__(self, folder: Path, scenes: Sequence[Path] = ()) -> None:
        sources = [(path.stem, path) for path in sorted(folder.glob("*.npz"))]
        sources += [(f"{scene}", path) for scene in scenes for path in sorted(scene.glob("*.npz"))]
        files = [np.load(path) for _, path in sources]
        self.patches = [np.load(path.with_suffix(".npy"), mmap_mode="r") for _, path in sources]
        counts = [len(file["side"]) for file in files]
        if sum(counts) < 2:
            raise ValueError(f"{folder} holds {sum(counts)} tracks; use more images with texture")
        self.file = np.repeat(np.arange(len(files)), counts)
        frames = np.unique([frame for frame, _ in sources], return_inverse=True)[1]
        self.frame = np.repeat(frames, counts)
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

    def batch(self, rng: np.random.Generator, plan: "BatchPlan") -> PatchPairs:
        """Draw two different views of each of some tracks."""
        tracks = self._draw_tracks(rng, plan)
        first = (rng.random(len(tracks)) * self.length[tracks]).astype(np.int64)
        step = 1 + (rng.random(len(tracks)) * (self.length[tracks] - 1)).astype(np.int64)
        second = (first + step) % self.length[tracks]
        a, b = (self._read(tracks, view) for view in (first, second))
        a, b = _rotate_alike(rng, a, b, self.is_upright[tracks])
        return PatchPairs(
            a=torch.from_numpy(augment_patches(rng, a, plan.augmentation))[:, None],
            b=torch.from_numpy(augment_patches(rng, b, plan.augmentation))[:, None],
            is_excluded=torch.from_numpy(self._show_same_point(tracks, plan.exclusion)),
        )

    def _draw_tracks(self, rng: np.random.Generator, plan: "BatchPlan") -> NDArray[np.int64]:
        chosen = []
        for is_upright in (False, True):
            share = plan.upright_share if is_upright else 1 - plan.upright_share
            wanted = round(plan.batch_size * share)
            members = np.flatnonzero(self.is_upright == is_upright)
            if wanted == 0 or len(members) == 0:
                continue
            files = rng.permutation(np.unique(self.file[members]))
            groups = [files[i : i + plan.images] for i in range(0, len(files), plan.images)]
            for group in groups:
                pool = members[np.isin(self.file[members], group)]
                taken = rng.permutation(pool)[:wanted]
                chosen.append(taken)
                wanted -= len(taken)
                if wanted == 0:
                    break
        return np.concatenate(chosen)

    def _read(self, tracks: NDArray[np.int64], view: NDArray[np.int64]) -> NDArray[np.uint8]:
        rows = self.first[tracks] + view
        picked = [self.patches[p][row] for p, row in zip(self.file[tracks], rows, strict=True)]
        return np.stack(picked)

    def _show_same_point(self, tracks: NDArray[np.int64], exclusion: float) -> NDArray[np.bool_]:
        position, side, frame = self.position[tracks], self.side[tracks], self.frame[tracks]
        distance = np.linalg.norm(position[:, None] - position[None], axis=2)
        near = distance < exclusion * np.maximum(side[:, None], side[None])
        return np.asarray(near & (frame[:, None] == frame[None]))


@dataclass(frozen=True)
class BatchPlan:
    """The composition of a batch."""

    batch_size: int = 512
    """Pairs in a step."""
    images: int = 16
    """Images that a batch is drawn from; with few, many negatives come from the same image."""
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
        if not 0 <= self.upright_share <= 1:
            raise ValueError(f"upright_share must be in [0, 1], got {self.upright_share}")


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
        patches[mirrored] = patches[mirrored][:, :, ::-1]
        for quarter in (1, 2, 3):
            chosen = quarters == quarter
            patches[chosen] = np.rot90(patches[chosen], quarter, axes=(1, 2))
    return a, b


def _write(stem: Path, tracks: Tracks) -> None:
    """Write both files; each has its final name only once it is complete."""
    patches, rest = stem.with_suffix(".npy"), stem.with_suffix(".npz")
    with atomic_write(patches) as scratch, scratch.open("wb") as file:
        np.save(file, tracks.patches)
    with atomic_write(rest) as scratch, scratch.open("wb") as file:
        np.savez(
            file,
            start=tracks.start,
            place=tracks.position,
            side=tracks.side,
            is_upright=tracks.is_upright,
        )
