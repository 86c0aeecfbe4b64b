"""This project's keypoints on the planes of a reconstruction, which may be of other features.

Matched keypoints (:mod:`training.scenes.matched_tracks`) show a descriptor only what it could match
before. The planes say which keypoints of two photos are one point, matched or not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64

from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Keypoints
from training.scenes.cut_tracks import View
from training.scenes.geometry import SceneGeometry
from training.scenes.transfer import LiftedKeypoints, carry, lift, scene_points

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

    @property
    def names(self) -> list[str]:
        """Return the names of the photos."""
        return [view.name for view in self.geometry.views]

    def views(self, keypoints: Sequence[Keypoints]) -> list[View]:
        """Return the photos with these keypoints, and their poses."""
        return [
            View(
                path=view.path,
                size=view.size,
                keypoints=points,
                rotation=view.rotation,
                centre=-view.rotation.T @ view.translation,
                focal_px=float(view.camera.mean_focal_length()),
            )
            for view, points in zip(self.geometry.views, keypoints, strict=True)
        ]
