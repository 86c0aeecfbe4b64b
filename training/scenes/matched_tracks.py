"""Tracks of a real scene: patches of one scene point in several images of a reconstruction.

Warped images (:mod:`training.tracks`) are flat, and only the changes that we draw occur in them; a
reconstruction shows true changes of viewpoint, light and season. Each scene point gives the patches
at the keypoints that were matched to it, cut at their detected position, scale and angle.
"""

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from evaluation.extractors.extraction import digest_of_files
from rekd_hloc.sfm.pycolmap_compat import read_reconstruction
from rekd_hloc.storage.features import FeatureStore
from training.scenes.cut_tracks import Observations, View, cut_tracks
from training.tracks import TrackConfig, Tracks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SceneConfig:
    """The reconstructions to take tracks from, and limits on their scene points."""

    folders: tuple[str, ...] = ()
    """Folders that ``rekd-hloc reconstruct`` has written, with features.h5 and sparse/0."""
    images: tuple[str, ...] = ()
    """The folder of images of each reconstruction."""
    models: tuple[str, ...] = ()
    """A COLMAP model of each folder of images, of any features: the keypoints of features.h5 are
    joined by its planes, whether they match or not. Where there is none, a folder with features.h5
    and matches.h5 of any extractor joins pairs of photos, and so does a file of pairs that show one
    view. Empty takes the points of sparse/0, as they are matched."""
    placed_share: float = 0.25
    """With ``models``, share of the views without a keypoint at a track's place that get one."""
    max_error_px: float = 1.5
    """Largest mean reprojection error of a scene point."""
    max_tracks: int = 20_000
    """Largest number of tracks of a scene."""

    def __post_init__(self) -> None:
        if len(self.folders) != len(self.images):
            raise ValueError(
                f"scenes.folders and scenes.images must be as many, got {len(self.folders)} and "
                f"{len(self.images)}; give the folder of images of each reconstruction"
            )
        if self.models and len(self.models) != len(self.folders):
            raise ValueError(
                f"scenes.models and scenes.folders must be as many, got {len(self.models)} and "
                f"{len(self.folders)}; give a model for each folder, or none at all"
            )
        if not 0 <= self.placed_share <= 1:
            raise ValueError(f"scenes.placed_share must be in [0, 1], got {self.placed_share}")
        if not self.max_error_px > 0 or self.max_tracks < 2:
            raise ValueError(
                "scenes.max_error_px must be positive and scenes.max_tracks at least 2, got "
                f"{self.max_error_px}, {self.max_tracks}"
            )

    @property
    def limits(self) -> dict[str, Any]:
        """Return the options that the tracks depend on."""
        left_out = {"folders", "images", "models"}
        if not self.models:  # as earlier versions have it, so that their folders serve on
            left_out.add("placed_share")
        return {k: v for k, v in asdict(self).items() if k not in left_out}


def scene_hash(folder: Path) -> str:
    """Return twelve hexadecimal digits of a reconstruction's features and model.

    Raises:
        FileNotFoundError: a file is missing.
    """
    files = [folder / "features.h5", *sorted((folder / "sparse" / "0").glob("*.*"))]
    if not files[0].is_file():
        raise FileNotFoundError(f"no {files[0]}; run `rekd-hloc reconstruct IMAGES {folder}` first")
    return digest_of_files(files)


def make_scene_tracks(
    folder: Path,
    images: Path,
    config: TrackConfig,
    limits: SceneConfig,
    rng: np.random.Generator,
) -> list[Tracks]:
    """Make the tracks of a scene, grouped by the first image that shows them.

    Args:
        folder: of the reconstruction, with features.h5 and sparse/0.
        images: folder of its images.
        config: how patches are cut.
        limits: which scene points are used.
        rng: draws the scene points and the factors on their patch sizes.

    Returns:
        For each such image its tracks, those of oriented patches first.

    Raises:
        FileNotFoundError: no such model, features or image.
        ValueError: the features or images are not those that the model was made of, or no scene
            point can be used.
    """
    model = read_reconstruction(folder / "sparse" / "0")
    views, number_of = _read_views(model, folder / "features.h5", images)
    xyz, seen = _read_points(model, number_of, limits, rng)
    if len(xyz) == 0:
        raise ValueError(
            f"{folder} has no scene point with a reprojection error under {limits.max_error_px} px "
            "in two images; raise scenes.max_error_px, or leave the scene out"
        )
    logger.info("%s: %d scene points in %d images", folder, len(xyz), len(views))
    return cut_tracks(views, seen, xyz, config, rng)


def _read_views(model: Any, features_path: Path, images: Path) -> tuple[list[View], dict[int, int]]:
    """Read all registered images, and the number of each by COLMAP's id of the image."""
    views: list[View] = []
    number_of: dict[int, int] = {}
    with FeatureStore(features_path) as store:
        for image_id in sorted(model.reg_image_ids(), key=lambda i: model.images[i].name):
            image = model.images[image_id]
            path = images / image.name
            if not path.is_file():
                raise FileNotFoundError(f"no image {path}; scenes.images is the folder of images")
            if image.name not in store:
                raise ValueError(f"{features_path} has no image {image.name!r} of the model")
            features = store.read(image.name)
            if len(features.keypoints) != len(image.points2D):
                raise ValueError(
                    f"{image.name} has {len(features.keypoints)} keypoints in {features_path} and "
                    f"{len(image.points2D)} in the model; both must be of one run"
                )
            number_of[image_id] = len(views)
            views.append(
                View(
                    path,
                    features.image_size,
                    features.keypoints,
                    np.asarray(image.cam_from_world().rotation.matrix(), dtype=np.float64),
                    np.asarray(image.projection_center(), dtype=np.float64),
                    float(model.cameras[image.camera_id].mean_focal_length()),
                )
            )
    return views, number_of


def _read_points(
    model: Any, number_of: dict[int, int], limits: SceneConfig, rng: np.random.Generator
) -> tuple[Float64[np.ndarray, "point 3"], Observations]:
    """Read the scene points that are precise enough, and their observations."""
    good = [i for i in sorted(model.points3D) if model.points3D[i].error <= limits.max_error_px]
    good = [good[i] for i in np.sort(rng.permutation(len(good))[: limits.max_tracks])]
    rows = [
        (number, number_of[element.image_id], element.point2D_idx)
        for number, point in enumerate(good)
        for element in model.points3D[point].track.elements
    ]
    table = np.array(sorted(rows), dtype=np.int64).reshape(-1, 3)
    # an image may show a point twice: at two levels, or two points that were merged
    first = np.unique(table[:, :2], axis=0, return_index=True)[1]
    seen = Observations(*table[first].T).in_several_views()
    used, point = np.unique(seen.point, return_inverse=True)
    xyz = np.array([model.points3D[good[i]].xyz for i in used], dtype=np.float64).reshape(-1, 3)
    return xyz, replace(seen, point=point)
