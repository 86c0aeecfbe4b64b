"""Tracks of a real scene: patches of one scene point in several images of a reconstruction.

Warped images (:mod:`training.tracks`) are flat, and only the changes that we draw occur in them; a
reconstruction shows true changes of viewpoint, light and season. Each scene point gives the patches
at the keypoints that were matched to it, cut at their detected position, scale and angle.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from rekd_hloc.features.descriptor.patches import PATCH_PX, cut_patches
from rekd_hloc.images import read_image
from rekd_hloc.sfm.pycolmap_compat import read_reconstruction
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Keypoints
from training.tracks import TrackConfig, Tracks, as_bytes, join_tracks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SceneConfig:
    """The reconstructions to take tracks from, and limits on their scene points."""

    folders: tuple[str, ...] = ()
    """Folders that ``rekd-hloc reconstruct`` has written, with features.h5 and sparse/0."""
    images: tuple[str, ...] = ()
    """The folder of images of each reconstruction."""
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
        if not self.max_error_px > 0 or self.max_tracks < 2:
            raise ValueError(
                "scenes.max_error_px must be positive and scenes.max_tracks at least 2, got "
                f"{self.max_error_px}, {self.max_tracks}"
            )

    @property
    def limits(self) -> dict[str, Any]:
        """Return the options that the tracks depend on."""
        return {k: v for k, v in asdict(self).items() if k not in ("folders", "images")}


@dataclass(frozen=True, eq=False)
class _View:
    """A registered image and its pose."""

    path: Path
    size: tuple[int, int]
    keypoints: Keypoints
    rotation: Float64[np.ndarray, "3 3"]
    centre: Float64[np.ndarray, "3"]
    focal_px: float


@dataclass(frozen=True, eq=False)
class _Observations:
    """Keypoints of scene points, sorted by point; rows are observations."""

    point: Int64[np.ndarray, " row"]
    view: Int64[np.ndarray, " row"]
    keypoint: Int64[np.ndarray, " row"]

    def __getitem__(self, chosen: NDArray[Any]) -> "_Observations":
        return _Observations(self.point[chosen], self.view[chosen], self.keypoint[chosen])

    def in_several_views(self) -> "_Observations":
        """Return the observations of those points that two or more views show."""
        return self[np.bincount(self.point)[self.point] > 1] if len(self.point) else self


def scene_hash(folder: Path) -> str:
    """Return twelve hexadecimal digits of a reconstruction's features and model.

    Raises:
        FileNotFoundError: a file is missing.
    """
    digest = hashlib.sha256()
    for path in [folder / "features.h5", *sorted((folder / "sparse" / "0").glob("*.*"))]:
        if not path.is_file():
            raise FileNotFoundError(f"no {path}; run `rekd-hloc reconstruct IMAGES {folder}` first")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


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
    factor = rng.choice(np.asarray(config.size_factors, np.float32), len(xyz))
    upright = _of_similar_roll(seen, views, config.warps.upright_angle_deg)
    parts: dict[int, list[Tracks]] = {}
    for rows, oriented in ((seen, True), (upright, False)):
        patches = _cut_observations(rows, views, factor, config, oriented=oriented)
        for number, tracks in _by_first_view(
            rows, patches, xyz, factor, views, config.patch_size_px
        ):
            tracks = replace(tracks, is_upright=np.full(len(tracks), not oriented))
            parts.setdefault(number, []).append(tracks)
    logger.info("%s: %d scene points in %d images", folder, len(xyz), len(views))
    return [join_tracks(parts[number]) for number in sorted(parts)]


def _read_views(
    model: Any, features_path: Path, images: Path
) -> tuple[list[_View], dict[int, int]]:
    """Read all registered images, and the number of each by COLMAP's id of the image."""
    views: list[_View] = []
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
                _View(
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
) -> tuple[Float64[np.ndarray, "point 3"], _Observations]:
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
    seen = _Observations(*table[first].T).in_several_views()
    used, point = np.unique(seen.point, return_inverse=True)
    xyz = np.array([model.points3D[good[i]].xyz for i in used], dtype=np.float64).reshape(-1, 3)
    return xyz, replace(seen, point=point)


def _of_similar_roll(
    seen: _Observations, views: Sequence[_View], limit_deg: float
) -> _Observations:
    """The observations in images of nearly the same roll as the first that shows the point."""
    down = np.mean([view.rotation[1] for view in views], axis=0)
    shown = np.array([view.rotation @ down for view in views])
    roll = np.arctan2(shown[:, 0], shown[:, 1])
    _, first = np.unique(seen.point, return_index=True)
    difference = roll[seen.view] - roll[seen.view[first]][seen.point]
    difference = np.abs((difference + np.pi) % (2 * np.pi) - np.pi)
    return seen[np.rad2deg(difference) <= limit_deg].in_several_views()


def _cut_observations(
    rows: _Observations,
    views: Sequence[_View],
    factor: NDArray[np.float32],
    config: TrackConfig,
    *,
    oriented: bool,
) -> UInt8[np.ndarray, "row *support 32 32"]:
    """Cut the patch of each observation."""
    blank = torch.zeros(len(rows.point), len(config.supports), PATCH_PX, PATCH_PX)
    patches = as_bytes(blank)
    for number in np.unique(rows.view):
        chosen = rows.view == number
        grey = _read_grey(views[number])
        points = views[number].keypoints[torch.from_numpy(rows.keypoint[chosen])]
        points = replace(points, scale=points.scale * torch.from_numpy(factor[rows.point[chosen]]))
        patches[chosen] = as_bytes(
            cut_patches(
                grey,
                points,
                patch_size_px=config.patch_size_px,
                oriented=oriented,
                antialias=True,
                supports=config.supports,
            )
        )
    return patches


def _read_grey(view: _View) -> Tensor:
    grey = read_image(view.path)
    size = grey.shape[1], grey.shape[0]
    if size != view.size:
        raise ValueError(
            f"{view.path} is {size[0]}x{size[1]}, its features were made of "
            f"{view.size[0]}x{view.size[1]}; scenes.images must be the folder that was "
            "reconstructed, without EXIF rotation"
        )
    return grey


def _by_first_view(
    rows: _Observations,
    patches: UInt8[np.ndarray, "row *support 32 32"],
    xyz: Float64[np.ndarray, "point 3"],
    factor: NDArray[np.float32],
    views: Sequence[_View],
    patch_size_px: float,
) -> Iterator[tuple[int, Tracks]]:
    """Group the tracks by the number of the first view that shows them, none of them upright."""
    points, first, counts = np.unique(rows.point, return_index=True, return_counts=True)
    anchor = rows.view[first]
    for number in np.unique(anchor):
        chosen = anchor == number
        view = views[number]
        scale = view.keypoints.scale.numpy()[rows.keypoint[first[chosen]]] * factor[points[chosen]]
        depth = (xyz[points[chosen]] - view.centre) @ view.rotation[2]
        yield (
            int(number),
            Tracks(
                patches=patches[np.isin(rows.point, points[chosen])],
                start=np.concatenate([[0], np.cumsum(counts[chosen])]),
                position=xyz[points[chosen]].astype(np.float32),
                side=(patch_size_px * scale * depth / view.focal_px).astype(np.float32),
                is_upright=np.zeros(int(chosen.sum()), dtype=bool),
            ),
        )
