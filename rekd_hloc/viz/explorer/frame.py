"""The frame of the page's 3-D view: the scene's middle at zero, its size 1, its up along +z."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float64

from rekd_hloc.sfm.alignment import Pose

SIZE_QUANTILE = 0.9
"""Share of the points within distance 1 of the middle."""
MIN_AGREEMENT = 0.5
"""Cameras whose up directions have a mean at least so long are held upright."""


@dataclass(frozen=True, eq=False)
class PageFrame:
    """``x_page = rotation @ (x_world - centre) / size``, with ``up`` a unit vector of the world."""

    rotation: Float64[np.ndarray, "3 3"]
    centre: Float64[np.ndarray, "3"]
    size: float

    @classmethod
    def choose(cls, points: Float64[np.ndarray, "point 3"], poses: Mapping[str, Pose]) -> Self:
        """Choose a frame that shows points and cameras well."""
        centres = np.array([pose.centre for pose in poses.values()]).reshape(-1, 3)
        cloud = points if len(points) else centres
        if not len(cloud):
            return cls(np.eye(3), np.zeros(3), 1.0)
        centre = np.median(cloud, axis=0)
        distance = np.linalg.norm(cloud - centre, axis=1)
        cameras = np.linalg.norm(centres - centre, axis=1)
        size = float(np.quantile(distance, SIZE_QUANTILE))
        size = max(size, 0.7 * float(np.median(cameras)) if len(cameras) else 0.0)
        return cls(_upright(_find_up(poses)), centre, size if size > 0 else 1.0)

    def apply(self, points: Float64[np.ndarray, "point 3"]) -> Float64[np.ndarray, "point 3"]:
        """Move points into the frame."""
        moved: Float64[np.ndarray, "point 3"] = (points - self.centre) @ self.rotation.T / self.size
        return moved

    def axes(self, pose: Pose) -> Float64[np.ndarray, "3 3"]:
        """Return what is right, down and ahead for a camera, as rows in the frame."""
        rows: Float64[np.ndarray, "3 3"] = pose.rotation @ self.rotation.T
        return rows

    def roll_deg(self, pose: Pose) -> float:
        """Return by how much a camera is rolled clockwise against the horizon, in (-180, 180]."""
        right, down, _ = self.axes(pose)
        return float(np.degrees(np.arctan2(-right[2], -down[2])))


def _find_up(poses: Mapping[str, Pose]) -> Float64[np.ndarray, "3"]:
    """Return the mean up of the cameras, or of rolled cameras the normal of their plane."""
    if not poses:
        return np.array([0.0, 0.0, 1.0])
    ups = np.array([-pose.rotation[1] for pose in poses.values()])
    mean = ups.mean(axis=0)
    length = float(np.linalg.norm(mean))
    if length >= MIN_AGREEMENT or len(poses) < 3:
        return np.asarray(mean / length if length > 1e-9 else ups[0])
    centres = np.array([pose.centre for pose in poses.values()])
    normal = np.linalg.svd(centres - centres.mean(axis=0))[2][2]
    return np.asarray(normal if normal @ mean >= 0 else -normal)


def _upright(up: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, "3 3"]:
    """Return the rotation that takes a unit vector to +z."""
    side = np.eye(3)[int(np.argmin(np.abs(up)))]
    x = np.cross(side, up)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(up, x), up])
