"""Tracks of photos that no reconstruction joins, each photo's own in a frame of its own.

The keypoints are joined as in a reconstruction (:mod:`training.scenes.joined_keypoints`), by the
maps between pairs. Positions are pixels of the photo that a track starts in, so that positions of
two photos cannot be compared.
"""

import hashlib
import logging
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from rekd_hloc.geometry import rotation_about
from training.scenes.cut_tracks import View, cut_tracks
from training.scenes.geometry import models_hash
from training.scenes.joined_keypoints import join_keypoints
from training.scenes.paired_photos import PairedPhotos, read_aligned, read_matched
from training.tracks import TrackConfig, Tracks

logger = logging.getLogger(__name__)

MATCHES = "matches.h5"
"""File that tells a folder of matches from one of a model."""


def is_paired(source: Path) -> bool:
    """Say whether a source is a folder of matches or a file of pairs, and no model."""
    return source.is_file() or (source / MATCHES).is_file()


def source_hash(source: str) -> str:
    """Return twelve hexadecimal digits of a model, of a folder of matches, or of a pairs file.

    Raises:
        FileNotFoundError: there is nothing of these.
    """
    path = Path(source)
    if not is_paired(path):
        return models_hash([source])
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else [path / "features.h5", path / MATCHES]:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:12]


def read_paired(features: Path, source: Path, images: Path) -> PairedPhotos:
    """Read photos and the maps between them; see :func:`make_paired_tracks`."""
    if source.is_file():
        return read_aligned(features, source, images)
    return read_matched(features, source)


def make_paired_tracks(
    features: Path,
    source: Path,
    images: Path,
    config: TrackConfig,
    rng: np.random.Generator,
    *,
    max_tracks: int,
    placed_share: float,
) -> list[Tracks]:
    """Make tracks of the keypoints in a features file through maps between pairs of photos.

    Args:
        features: this project's features of the photos.
        source: folder with features.h5 and matches.h5 of the same photos, of any extractor; or a
            file of pairs of photos that show one view.
        images: folder of the photos.
        config: how patches are cut, and how far keypoints of a track may disagree.
        rng: draws which tracks are taken, where keypoints are placed, and factors on patch sizes.
        max_tracks: largest number of tracks.
        placed_share: share of the views of a track without a keypoint that get a placed one.

    Returns:
        The tracks that start in each photo, each in pixels of that photo.

    Raises:
        FileNotFoundError: no such file or photo.
        ValueError: no keypoint can be carried from a photo to another.
    """
    photos = read_paired(features, source, images)
    joined = join_keypoints(photos, config, rng, placed_share)
    if len(joined) == 0:
        raise ValueError(
            f"no keypoint of {features} can be carried between the pairs of {source}; leave the "
            "scene out"
        )
    chosen = joined.choose(np.sort(rng.permutation(len(joined))[:max_tracks]))
    keypoints = chosen.all_keypoints(photos)
    views = [
        View(
            path=images / name,
            size=size,
            keypoints=points,
            rotation=_about_the_axis(roll),
            centre=np.array([0.0, 0.0, -1.0]),  # so that a side is in pixels
            focal_px=1.0,
        )
        for name, size, points, roll in zip(
            photos.names, photos.sizes, keypoints, photos.rolls(), strict=True
        )
    ]
    logger.info(
        "%s: %d of %d tracks, %d patches, by %d pairs",
        source, len(chosen), len(joined), len(chosen.seen.point), len(photos.maps) // 2,
    )  # fmt: skip
    return cut_tracks(views, chosen.seen, chosen.place, config, rng)


def _about_the_axis(roll: float) -> Float64[np.ndarray, "3 3"]:
    return np.asarray(rotation_about(roll, (0.0, 0.0)).numpy(), dtype=np.float64)
