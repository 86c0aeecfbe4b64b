"""Tracks of keypoints that no match has joined: they lie at the same place of a model's surface.

A track of matched keypoints (:mod:`training.scenes.matched_tracks`) shows a descriptor only what it
could match before. Here the planes of a reconstruction, which may be of other features, say which
keypoints of two photos are one point.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64

from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Keypoints
from training.scenes.cut_tracks import View, cut_tracks
from training.scenes.geometry import SceneGeometry
from training.scenes.joined_keypoints import join_keypoints
from training.scenes.transfer import LiftedKeypoints, carry, lift, scene_points
from training.tracks import TrackConfig, Tracks

logger = logging.getLogger(__name__)

MIN_COMMON_POINTS = 20
"""Fewest scene points that two photos share, for keypoints to be carried between them."""


@dataclass(frozen=True, eq=False)
class LiftedScene:
    """A model, this project's keypoints in its photos, and their planes; a carrier of keypoints."""

    geometry: SceneGeometry
    keypoints: Sequence[Keypoints]
    lifted: Sequence[LiftedKeypoints]
    partners: Sequence[list[int]]

    @classmethod
    def read(cls, features: Path, model: Path, images: Path) -> "LiftedScene":
        """Read features and a model of the same photos.

        Raises:
            FileNotFoundError: no such model, features or photo.
            ValueError: features and model have no photo in common.
        """
        geometry = SceneGeometry.read(model, images)
        with FeatureStore(features) as store:
            known = set(store.names())
            views = tuple(view for view in geometry.views if view.name in known)
            if not views:
                raise ValueError(f"{features} has no photo of {model}; both must be of one folder")
            geometry = replace(geometry, views=views)
            keypoints = [store.read_keypoints(view.name) for view in views]
        lifted = [lift(geometry, number, points) for number, points in enumerate(keypoints)]
        partners: list[list[int]] = [[] for _ in views]
        for i, j, _ in geometry.covisible_pairs(MIN_COMMON_POINTS):
            partners[i].append(j)
            partners[j].append(i)
        return cls(geometry, keypoints, lifted, partners)

    def others(self, view: int) -> list[int]:
        """Return the views that share scene points with a view."""
        return self.partners[view]

    def carry(self, of: int, to: int) -> tuple[Keypoints, Bool[np.ndarray, " keypoint"]]:
        """Return the keypoints of a view as they lie in another, and whether each is seen."""
        return carry(self.geometry, self.lifted[of], to)

    def places(self, view: int) -> Float64[np.ndarray, "keypoint 3"]:
        """Return where the keypoints of a view lie in the world."""
        return scene_points(self.geometry, self.lifted[view])


def make_transferred_tracks(
    features: Path,
    model: Path,
    images: Path,
    config: TrackConfig,
    rng: np.random.Generator,
    *,
    max_tracks: int,
    placed_share: float,
) -> list[Tracks]:
    """Make tracks of the keypoints in a features file through a model's planes.

    Args:
        features: this project's features of the photos.
        model: folder of a COLMAP model of the same photos, of any features.
        images: folder of the photos.
        config: how patches are cut, and how far keypoints of a track may disagree.
        rng: draws which tracks are taken, where keypoints are placed, and factors on patch sizes.
        max_tracks: largest number of tracks.
        placed_share: share of the views of a track without a keypoint that get a placed one.

    Returns:
        The tracks, grouped by the first photo that shows them.

    Raises:
        FileNotFoundError: no such model, features or photo.
        ValueError: features and model have no photo in common, or no keypoint can be carried.
    """
    scene = LiftedScene.read(features, model, images)
    joined = join_keypoints(scene, config, rng, placed_share)
    if len(joined) == 0:
        raise ValueError(
            f"no keypoint of {features} can be carried between the photos of {model}; leave the "
            "scene out"
        )
    chosen = joined.choose(np.sort(rng.permutation(len(joined))[:max_tracks]))
    views = [
        View(
            path=view.path,
            size=view.size,
            keypoints=keypoints,
            rotation=view.rotation,
            centre=-view.rotation.T @ view.translation,
            focal_px=float(view.camera.mean_focal_length()),
        )
        for view, keypoints in zip(scene.geometry.views, chosen.all_keypoints(scene), strict=True)
    ]
    logger.info(
        "%s: %d of %d tracks, %d patches", model, len(chosen), len(joined), len(chosen.seen.point)
    )
    return cut_tracks(views, chosen.seen, chosen.place, config, rng)
