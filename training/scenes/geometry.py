"""The photos and the scene points of a reconstruction, read as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray

from evaluation.extractors.extraction import digest_of_files
from rekd_hloc.sfm.pycolmap_compat import read_reconstruction

MAX_REPROJECTION_PX = 1.5
"""Largest mean reprojection error of a scene point that is used."""
PIXEL_CENTRE = 0.5
"""COLMAP's coordinates of the first pixel's centre."""

Points = Float64[np.ndarray, "point 2"]


@dataclass(frozen=True, eq=False)
class SceneView:
    """One registered photo.

    Attributes:
        name: of the photo in the model.
        path: of its file.
        size: width and height in pixels.
        camera: a ``pycolmap.Camera``.
        rotation: to camera from world.
        translation: likewise; ``x_camera = rotation @ x_world + translation``.
        xy: of the observed scene points, in pixels, (0, 0) being the first pixel's centre.
        point: row of each in ``SceneGeometry.xyz``.
    """

    name: str
    path: Path
    size: tuple[int, int]
    camera: Any
    rotation: Float64[np.ndarray, "3 3"]
    translation: Float64[np.ndarray, "3"]
    xy: Points
    point: Int64[np.ndarray, " observed"]

    def to_rays(self, xy: Points) -> Points:
        """Return positions on the image plane at depth 1, the distortion removed."""
        rays: Points = np.asarray(self.camera.cam_from_img(xy + PIXEL_CENTRE)).reshape(-1, 2)
        return rays

    def to_pixels(self, camera_xyz: Float64[np.ndarray, "point 3"]) -> Points:
        """Project points of the camera's frame; nan behind the camera."""
        xy = np.full((len(camera_xyz), 2), np.nan)
        front = camera_xyz[:, 2] > 0
        if front.any():
            xy[front] = self.camera.img_from_cam(camera_xyz[front]) - PIXEL_CENTRE
        return xy

    def to_camera(self, xyz: Float64[np.ndarray, "point 3"]) -> Float64[np.ndarray, "point 3"]:
        """Take points of the world to the camera's frame."""
        moved: Float64[np.ndarray, "point 3"] = xyz @ self.rotation.T + self.translation
        return moved

    def to_world(
        self, camera_xyz: Float64[np.ndarray, "point 3"]
    ) -> Float64[np.ndarray, "point 3"]:
        """Take points of the camera's frame to the world."""
        moved: Float64[np.ndarray, "point 3"] = (camera_xyz - self.translation) @ self.rotation
        return moved


@dataclass(frozen=True, eq=False)
class SceneGeometry:
    """The photos and the scene points of one reconstruction."""

    views: tuple[SceneView, ...]
    xyz: Float64[np.ndarray, "scene_point 3"]

    @classmethod
    def read(cls, model_folder: Path, image_folder: Path) -> "SceneGeometry":
        """Read a COLMAP model; the photos are in the order of their names.

        Raises:
            FileNotFoundError: no such model or photo.
        """
        model = read_reconstruction(model_folder)
        good = sorted(
            i for i, point in model.points3D.items() if point.error <= MAX_REPROJECTION_PX
        )
        row_of = {number: row for row, number in enumerate(good)}
        registered = sorted((model.images[i] for i in model.reg_image_ids()), key=lambda i: i.name)
        views = tuple(_view(model, image, image_folder, row_of) for image in registered)
        xyz = np.array([model.points3D[i].xyz for i in good], dtype=np.float64).reshape(-1, 3)
        return cls(views, xyz)

    def covisible_pairs(self, min_points: int) -> list[tuple[int, int, int]]:
        """Return pairs of views, and how many scene points both observe, where that suffices."""
        seen = [set(view.point.tolist()) for view in self.views]
        counted = [
            (i, j, len(seen[i] & seen[j]))
            for i in range(len(seen))
            for j in range(i + 1, len(seen))
        ]
        return [pair for pair in counted if pair[2] >= min_points]


def models_hash(folders: Sequence[str]) -> str:
    """Return twelve hexadecimal digits of the files of COLMAP models, in the order given.

    Raises:
        FileNotFoundError: a folder holds no model.
    """
    files: list[Path] = []
    for folder in folders:
        found = sorted(Path(folder).glob("*.bin")) or sorted(Path(folder).glob("*.txt"))
        if not found:
            raise FileNotFoundError(f"no COLMAP model in {folder}; name a folder such as sparse/0")
        files += found
    return digest_of_files(files)


def _view(model: Any, image: Any, image_folder: Path, row_of: dict[int, int]) -> SceneView:
    path = image_folder / image.name
    if not path.is_file():
        raise FileNotFoundError(f"no photo {path}; give the folder that the model was made of")
    camera = model.cameras[image.camera_id]
    seen: dict[int, NDArray[np.float64]] = {}
    for number in image.get_observation_point2D_idxs():
        point = image.points2D[number]
        if point.point3D_id in row_of:
            seen.setdefault(row_of[point.point3D_id], np.asarray(point.xy) - PIXEL_CENTRE)
    pose = image.cam_from_world()
    return SceneView(
        name=image.name,
        path=path,
        size=(int(camera.width), int(camera.height)),
        camera=camera,
        rotation=np.asarray(pose.rotation.matrix(), dtype=np.float64),
        translation=np.asarray(pose.translation, dtype=np.float64),
        xy=np.array(list(seen.values()), dtype=np.float64).reshape(-1, 2),
        point=np.array(list(seen), dtype=np.int64),
    )
