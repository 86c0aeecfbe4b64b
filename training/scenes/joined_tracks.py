"""Tracks of keypoints that no match has joined, by what says where they lie in other photos."""

import logging
from pathlib import Path

import numpy as np

from evaluation.extractors.extraction import digest_of_files
from training.scenes.cut_tracks import cut_tracks
from training.scenes.geometry import models_hash
from training.scenes.joined_keypoints import Carrier, join_keypoints
from training.scenes.lifted_scene import LiftedScene
from training.scenes.paired_photos import MATCHES, is_paired, read_paired
from training.tracks import TrackConfig, Tracks

logger = logging.getLogger(__name__)


def read_carrier(features: Path, source: Path, images: Path) -> Carrier:
    """Read what says where keypoints lie.

    Args:
        features: this project's features of the photos.
        source: folder of a COLMAP model of the photos, of any features; folder with features.h5 and
            matches.h5 of any extractor; or a file of pairs of photos that show one view.
        images: folder of the photos.

    Raises:
        FileNotFoundError: no such model, file or photo.
        ValueError: features and source are not of the same photos.
    """
    if is_paired(source):
        return read_paired(features, source, images)
    return LiftedScene.read(features, source, images)


def source_hash(source: Path) -> str:
    """Return twelve hexadecimal digits of a source, see :func:`read_carrier`.

    Raises:
        FileNotFoundError: there is nothing of these.
    """
    if not is_paired(source):
        return models_hash([str(source)])
    return digest_of_files(
        [source] if source.is_file() else [source / "features.h5", source / MATCHES]
    )


def make_joined_tracks(
    features: Path,
    source: Path,
    images: Path,
    config: TrackConfig,
    rng: np.random.Generator,
    *,
    max_tracks: int,
    placed_share: float,
) -> list[Tracks]:
    """Make tracks of the keypoints in a features file.

    Args:
        features: this project's features of the photos.
        source: says where they lie in other photos, see :func:`read_carrier`.
        images: folder of the photos.
        config: how patches are cut, and how far keypoints of a track may disagree.
        rng: draws which tracks are taken, where keypoints are placed, and factors on patch sizes.
        max_tracks: largest number of tracks.
        placed_share: share of the views of a track without a keypoint that get a placed one.

    Returns:
        The tracks, grouped by the first photo that shows them. Their positions are scene points of
        a model; without one they are pixels of that photo.

    Raises:
        FileNotFoundError: as :func:`read_carrier`.
        ValueError: likewise, or no keypoint can be carried.
    """
    carrier = read_carrier(features, source, images)
    joined = join_keypoints(carrier, config, rng, placed_share)
    if len(joined) == 0:
        raise ValueError(
            f"no keypoint of {features} can be carried between the photos of {source}; leave the "
            "scene out"
        )
    chosen = joined.choose(np.sort(rng.permutation(len(joined))[:max_tracks]))
    logger.info(
        "%s: %d of %d tracks, %d patches", source, len(chosen), len(joined), len(chosen.seen.point)
    )
    views = carrier.views(chosen.all_keypoints(carrier))
    return cut_tracks(views, chosen.seen, chosen.place, config, rng)
