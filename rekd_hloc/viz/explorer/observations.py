"""Which keypoints a model uses, and by how much each misses its 3-D point."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

MAX_TRACK_BIN = 20
"""Tracks of so many images and more are counted together."""


@dataclass(frozen=True, eq=False)
class Observations:
    """Hold what an image shows of a model.

    Attributes:
        keypoint: number of the keypoint in its image.
        point: row of its 3-D point among the model's.
        error_px: distance from the point's projection; nan behind the camera.
        xy: of all keypoints of the image in the model, pixel centres at whole numbers.
    """

    keypoint: Int64[np.ndarray, " observation"]
    point: Int64[np.ndarray, " observation"]
    error_px: Float64[np.ndarray, " observation"]
    xy: Float64[np.ndarray, "keypoint 2"]

    def mean_error_px(self) -> float | None:
        """Return the mean; None without observations."""
        known = self.error_px[np.isfinite(self.error_px)]
        return float(known.mean()) if len(known) else None


def read_observations(model: Any) -> dict[str, Observations]:
    """Return what each registered image of a ``pycolmap.Reconstruction`` shows of it."""
    ids = {point_id: row for row, point_id in enumerate(model.points3D)}
    xyz = np.array([p.xyz for p in model.points3D.values()], np.float64).reshape(-1, 3)
    return {
        model.images[k].name: _observe(model, model.images[k], ids, xyz)
        for k in model.reg_image_ids()
    }


def _observe(
    model: Any, image: Any, rows: dict[int, int], xyz: Float64[np.ndarray, "point 3"]
) -> Observations:
    xy = np.array([point.xy for point in image.points2D], np.float64).reshape(-1, 2)
    pairs = [
        (k, rows[point.point3D_id]) for k, point in enumerate(image.points2D) if point.has_point3D()
    ]
    keypoint, point = np.array(pairs, np.int64).reshape(-1, 2).T
    cam_from_world = image.cam_from_world()
    rotation = np.asarray(cam_from_world.rotation.matrix(), np.float64)
    in_camera = xyz[point] @ rotation.T + np.asarray(cam_from_world.translation, np.float64)
    is_ahead = in_camera[:, 2] > 0
    error = np.full(len(point), np.nan)
    if is_ahead.any():
        camera = model.cameras[image.camera_id]
        seen = np.asarray(camera.img_from_cam(in_camera[is_ahead]), np.float64).reshape(-1, 2)
        error[is_ahead] = np.linalg.norm(seen - xy[keypoint[is_ahead]], axis=1)
    return Observations(keypoint, point, error, xy - 0.5)


def count_tracks(model: Any) -> list[int]:
    """Return how many points are seen by 2, 3, ... images; the last number is of all longer."""
    lengths = np.array([p.track.length() for p in model.points3D.values()], np.int64)
    counts = np.bincount(np.minimum(lengths, MAX_TRACK_BIN), minlength=3)[2:]
    return [int(count) for count in counts]
