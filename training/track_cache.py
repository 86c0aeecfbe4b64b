"""Tracks of all training photos and scenes on disk, and batches of patch pairs drawn from them.

Two files a photo; the second one is written last and marks the photo as done. A batch is a pure
function of the seed and the step.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from evaluation.image_folders import images_hash
from rekd_hloc.features.detector.detect import Detector
from rekd_hloc.files import atomic_write, write_json
from rekd_hloc.images import ImageReadError, read_color
from training.common.checkpoint import require_same
from training.patch_augmentation import PatchAugmentation, augment_patches
from training.scene_tracks import SceneConfig, make_scene_tracks, scene_hash
from training.tracks import TrackConfig, Tracks, make_tracks

logger = logging.getLogger(__name__)

VERSION = 2
"""Of the files."""
DONE = "done"
"""File that marks a scene's folder as whole."""


@dataclass(frozen=True)
class PatchPairs:
    """Two views of each place, and which places must not be called different.

    Attributes:
        a, b: patches in 0..1.
        is_excluded: true where two rows show (nearly) the same place of one photo or scene.
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
    """Write the tracks of all photos, or what is missing of them.

    Raises:
        ValueError: the folder holds tracks of another configuration, detector or data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    identity = {"tracks": asdict(config), "detector": detector_hash, "seed": seed}
    identity["version"] = VERSION
    identity = json.loads(json.dumps({**identity, "data_hash": images_hash(paths)}))
    stated = folder / "config.json"
    if stated.is_file():
        require_same(stated, json.loads(stated.read_text()), identity)
    else:
        write_json(stated, identity)
    for index, path in enumerate(tqdm(paths, disable=quiet, unit="photo")):
        if (folder / f"{index:05d}.npz").is_file():
            continue
        try:
            photo = read_color(path)
        except ImageReadError as error:
            logger.warning("skipped: %s", error)
            continue
        # the photo's name and not its number: its tracks do not depend on the other photos
        rng = np.random.default_rng([seed, *path.name.encode()])
        _write(folder / f"{index:05d}", make_tracks(photo, detector, config, rng))


def generate_scene_tracks(
    folder: Path, scenes: SceneConfig, config: TrackConfig, *, seed: int, quiet: bool = False
) -> list[Path]:
    """Write the tracks of all scenes, or what is missing of them.

    Returns:
        The folder of each scene's tracks, below ``folder``; its name is a hash of all that they
        depend on.

    Raises:
        FileNotFoundError, ValueError: as :func:`training.scene_tracks.make_scene_tracks`.
    """
    written = []
    pairs = list(zip(scenes.folders, scenes.photos, strict=True))
    for source, photos in tqdm(pairs, disable=quiet or not pairs, unit="scene"):
        content = scene_hash(Path(source))
        settings = [content, VERSION, seed, scenes.limits, asdict(config)]
        name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
        if not (folder / name / DONE).is_file():
            rng = np.random.default_rng([seed, *content.encode()])
            parts = make_scene_tracks(Path(source), Path(photos), config, scenes, rng)
            (folder / name).mkdir(parents=True, exist_ok=True)
            for index, tracks in enumerate(parts):
                _write(folder / name / f"{index:05d}", tracks)
            (folder / name / DONE).touch()
        written.append(folder / name)
    return written


class TrackSet:
    """All tracks in a folder, and in those of scenes.

    Args:
        folder: of the photos' tracks.
        scenes: folders each of which holds the tracks of one scene.

    Raises:
        ValueError: there are no tracks, or too few.
    """

    def __init__(self, folder: Path, scenes: Sequence[Path] = ()) -> None:
        found = [(f"{place}", path) for place in scenes for path in sorted(place.glob("*.npz"))]
        found = [(path.stem, path) for path in sorted(folder.glob("*.npz"))] + found
        files = [np.load(path) for _, path in found]
        self.patches = [np.load(path.with_suffix(".npy"), mmap_mode="r") for _, path in found]
        counts = [len(file["side"]) for file in files]
        if sum(counts) < 2:
            raise ValueError(f"{folder} holds {sum(counts)} tracks; use more photos with texture")
        self.photo = np.repeat(np.arange(len(files)), counts)
        worlds = np.unique([world for world, _ in found], return_inverse=True)[1]
        self.world = np.repeat(worlds, counts)
        self.first = np.concatenate([file["start"][:-1] for file in files])
        self.length = np.concatenate([np.diff(file["start"]) for file in files])
        self.place = np.concatenate([file["place"] for file in files])
        self.side = np.concatenate([file["side"] for file in files])
        self.is_upright = np.concatenate([file["is_upright"] for file in files])

    def __len__(self) -> int:
        """Number of tracks."""
        return len(self.photo)

    @property
    def num_patches(self) -> int:
        """Number of patches of all tracks."""
        return int(self.length.sum())

    def batch(self, rng: np.random.Generator, plan: "BatchPlan") -> PatchPairs:
        """Pairs drawn by the generator: two different views of each of some tracks."""
        tracks = self._draw_tracks(rng, plan)
        first = (rng.random(len(tracks)) * self.length[tracks]).astype(np.int64)
        step = 1 + (rng.random(len(tracks)) * (self.length[tracks] - 1)).astype(np.int64)
        second = (first + step) % self.length[tracks]
        a, b = (self._read(tracks, view) for view in (first, second))
        a, b = _turn_alike(rng, a, b, self.is_upright[tracks])
        return PatchPairs(
            a=torch.from_numpy(augment_patches(rng, a, plan.changes))[:, None],
            b=torch.from_numpy(augment_patches(rng, b, plan.changes))[:, None],
            is_excluded=torch.from_numpy(self._same_place(tracks, plan.exclusion)),
        )

    def _draw_tracks(self, rng: np.random.Generator, plan: "BatchPlan") -> NDArray[np.int64]:
        chosen = []
        for is_upright in (False, True):
            share = plan.upright_share if is_upright else 1 - plan.upright_share
            wanted = round(plan.batch_size * share)
            members = np.flatnonzero(self.is_upright == is_upright)
            if wanted == 0 or len(members) == 0:
                continue
            photos = rng.permutation(np.unique(self.photo[members]))
            groups = [photos[i : i + plan.photos] for i in range(0, len(photos), plan.photos)]
            for group in groups:
                pool = members[np.isin(self.photo[members], group)]
                taken = rng.permutation(pool)[:wanted]
                chosen.append(taken)
                wanted -= len(taken)
                if wanted == 0:
                    break
        return np.concatenate(chosen)

    def _read(self, tracks: NDArray[np.int64], view: NDArray[np.int64]) -> NDArray[np.uint8]:
        rows = self.first[tracks] + view
        picked = [self.patches[p][row] for p, row in zip(self.photo[tracks], rows, strict=True)]
        return np.stack(picked)

    def _same_place(self, tracks: NDArray[np.int64], exclusion: float) -> NDArray[np.bool_]:
        place, side, world = self.place[tracks], self.side[tracks], self.world[tracks]
        distance = np.linalg.norm(place[:, None] - place[None], axis=2)
        near = distance < exclusion * np.maximum(side[:, None], side[None])
        return np.asarray(near & (world[:, None] == world[None]))


@dataclass(frozen=True)
class BatchPlan:
    """What a batch is made of."""

    batch_size: int = 512
    """Pairs in a step."""
    photos: int = 16
    """Photos that a batch is drawn from; few give hard negatives of the same photo."""
    upright_share: float = 0.25
    """Share of pairs of upright patches."""
    exclusion: float = 0.1
    """Two places of a photo or scene closer than this part of the larger patch's side are one."""
    changes: PatchAugmentation = field(default_factory=PatchAugmentation)
    """What is done to every patch."""

    def __post_init__(self) -> None:
        if self.batch_size < 2 or self.photos < 1:
            raise ValueError(
                "batch_size must be at least 2 and photos at least 1, got "
                f"{self.batch_size}, {self.photos}"
            )
        if not 0 <= self.upright_share <= 1:
            raise ValueError(f"upright_share must be in [0, 1], got {self.upright_share}")


def _turn_alike(
    rng: np.random.Generator,
    a: NDArray[np.uint8],
    b: NDArray[np.uint8],
    is_upright: NDArray[np.bool_],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Mirror, and turn by quarters unless upright, both patches of a pair the same way."""
    a, b = a.copy(), b.copy()
    mirrored = rng.random(len(a)) < 0.5
    turns = rng.integers(4, size=len(a)) * ~is_upright
    for patches in (a, b):
        patches[mirrored] = patches[mirrored][:, :, ::-1]
        for quarter in (1, 2, 3):
            chosen = turns == quarter
            patches[chosen] = np.rot90(patches[chosen], quarter, axes=(1, 2))
    return a, b


def _write(stem: Path, tracks: Tracks) -> None:
    """Both files under their final names only when they are whole."""
    patches, rest = stem.with_suffix(".npy"), stem.with_suffix(".npz")
    with atomic_write(patches) as scratch, scratch.open("wb") as file:
        np.save(file, tracks.patches)
    with atomic_write(rest) as scratch, scratch.open("wb") as file:
        np.savez(
            file,
            start=tracks.start,
            place=tracks.place,
            side=tracks.side,
            is_upright=tracks.is_upright,
        )
