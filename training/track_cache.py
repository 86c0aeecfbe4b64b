"""Tracks of all training images and scenes on disk.

Each image has two files; the second one is written last and marks the image as done.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation.image_folders import images_hash
from rekd_hloc.features.descriptor.support_hardnet import ONE_SUPPORT
from rekd_hloc.features.detector.detect import Detector
from rekd_hloc.files import atomic_write, write_text
from rekd_hloc.images import ImageReadError, read_color
from rekd_hloc.renamed_options import config_of_version_0_1
from training.common.checkpoint import claim_folder, make_identity
from training.scenes.joined_tracks import make_joined_tracks, source_hash
from training.scenes.matched_tracks import SceneConfig, make_scene_tracks, scene_hash
from training.scenes.paired_photos import is_paired
from training.track_batches import SITE
from training.tracks import TrackConfig, Tracks, make_tracks

logger = logging.getLogger(__name__)

VERSION = 2
"""Version of the files."""
DONE = "done"
"""File that marks a scene's folder as complete. It lists the folders beside it that hold the
tracks; an empty one says that the folder itself does."""
NAMES_IN_HASH = {"size_factors": "finer"}
"""Options of tracks by the names that they had when version 2 began. The name of a scene's folder
is a hash of all options in their old names, and must stay the same."""


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
    settings = {"tracks": track_options(config), "detector": detector_hash, "seed": seed}
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
        The folders of each scene's tracks, below ``folder``; their names begin with a hash of all
        that they depend on. A scene without a model has one for each photo, in whose pixels
        positions are.

    Raises:
        FileNotFoundError, ValueError: as :func:`training.scenes.matched_tracks.make_scene_tracks`.
    """
    written = []
    models = scenes.models or ("",) * len(scenes.folders)
    sources = list(zip(scenes.folders, scenes.images, models, strict=True))
    for source, images, model in tqdm(sources, disable=quiet or not sources, unit="scene"):
        content = scene_hash(Path(source))
        if model:
            content += "+" + source_hash(Path(model))
        options = _with_names_in_hash(track_options(config))
        settings = [content, VERSION, seed, scenes.limits, options]
        name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
        if not (folder / name / DONE).is_file():
            rng = np.random.default_rng([seed, *content.encode()])
            parts = _make_parts(Path(source), Path(images), model, config, scenes, rng)
            _write_parts(
                folder / name, parts, has_own_frames=bool(model) and is_paired(Path(model))
            )
        frames = _frames(folder / name)
        for frame in frames:
            if not (frame / SITE).is_file():
                write_text(frame / SITE, str(Path(images).resolve()))
        written += frames
    return written


def _write_parts(folder: Path, parts: Sequence[Tracks], *, has_own_frames: bool) -> None:
    """Write a scene's tracks; parts whose positions cannot be compared have folders beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for index, tracks in enumerate(parts):
        frame = folder
        if has_own_frames:
            frame = folder.with_name(f"{folder.name}-{index:03d}")
            frame.mkdir(exist_ok=True)
            names.append(frame.name)
        _write(frame / f"{index:05d}", tracks)
    write_text(folder / DONE, "\n".join(names))


def _frames(folder: Path) -> list[Path]:
    """Return the folders that a finished scene's tracks are in, each of one frame."""
    names = (folder / DONE).read_text().split()
    return [folder.with_name(name) for name in names] or [folder]


def _make_parts(
    source: Path,
    images: Path,
    model: str,
    config: TrackConfig,
    scenes: SceneConfig,
    rng: np.random.Generator,
) -> list[Tracks]:
    if not model:
        return make_scene_tracks(source, images, config, scenes, rng)
    return make_joined_tracks(
        source / "features.h5",
        Path(model),
        images,
        config,
        rng,
        max_tracks=scenes.max_tracks,
        placed_share=scenes.placed_share,
    )


def track_options(config: TrackConfig) -> dict[str, Any]:
    """Return the options that decide on a folder's tracks.

    Those of later versions are left out at the value that earlier versions worked by, so that
    folders made before them serve on.
    """
    options = asdict(config)
    if config.supports == ONE_SUPPORT:
        del options["supports"]
    return options


def _with_names_in_hash(options: Mapping[str, Any]) -> dict[str, Any]:
    old = config_of_version_0_1(options)
    return {NAMES_IN_HASH.get(name, name): value for name, value in old.items()}


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
