"""Find where a new image was taken in a model, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.alignment import compute_extent
from rekd_hloc.sfm.pose_refinement import (
    MAX_ERROR_PX,
    MIN_INLIERS,
    compute_cost,
    compute_deviations,
    project,
    refine_with_principal_point,
)
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.sfm.query_camera import ESTIMATED, EXIF, GIVEN, MAP, QueryCamera, with_focal
from rekd_hloc.storage.features import FeatureStore, MatchStore

Array = NDArray[np.float64]

FOCALS = (0.6, 0.8, 1.0, 1.2, 1.6, 2.4)
"""Tried for an unknown camera, in units of the longer side."""
MIN_SPREAD = 0.1
"""Least spread of the inliers over the image, as a share of its area."""
MAX_POSITION_STD = 0.02
"""Largest standard deviation of the position, as a share of the extent of the model's cameras."""
MAX_ROTATION_STD_DEG = 1.0
NUM_INTRINSICS = {MAP: 0, GIVEN: 0, EXIF: 1, ESTIMATED: 3}
"""Intrinsics that are estimated with the pose: the focal length, and the principal point too where
nothing is known of an image, which may be cut from a larger one."""


@dataclass(frozen=True)
class Localization:
    """Where a new image was taken.

    Attributes:
        cam_from_world: the ``pycolmap.Rigid3d``.
        camera: with the intrinsics that fit, a ``pycolmap.Camera``.
        source: of the intrinsics.
        num_inliers: matches that agree with the pose.
        num_matches: matches with points of the model.
        spread: area of the inliers' bounding box as a share of the image's.
        position_std: standard deviation of the position, in the model's units.
        position_std_rel: the same as a share of the extent of the model's cameras.
        rotation_std_deg: standard deviation of the orientation, degrees.
    """

    cam_from_world: Any
    camera: Any
    source: str
    num_inliers: int
    num_matches: int
    spread: float
    position_std: float
    position_std_rel: float
    rotation_std_deg: float

    @property
    def warnings(self) -> list[str]:
        """Return why the pose should not be relied on; empty if it can be."""
        found = []
        if self.num_inliers < MIN_INLIERS:
            found.append(f"{self.num_inliers} inliers, fewer than {MIN_INLIERS}")
        if self.spread < MIN_SPREAD:
            found.append(f"the inliers cover {self.spread:.0%} of the image")
        if not self.position_std_rel <= MAX_POSITION_STD:
            found.append(f"position uncertain by {self.position_std_rel:.1%} of the extent")
        if not self.rotation_std_deg <= MAX_ROTATION_STD_DEG:
            found.append(f"orientation uncertain by {self.rotation_std_deg:.1f} degrees")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the pose and what it rests on in plain values."""
        pose = self.cam_from_world
        x, y, z, w = np.asarray(pose.rotation.quat, dtype=float).tolist()
        return {
            "qvec_wxyz": [w, x, y, z],
            "tvec": np.asarray(pose.translation, dtype=float).tolist(),
            "camera": {
                "model": self.camera.model.name,
                "width": self.camera.width,
                "height": self.camera.height,
                "params": [float(value) for value in self.camera.params],
            },
            "focal_px": float(self.camera.mean_focal_length()),
            "camera_source": self.source,
            "num_inliers": self.num_inliers,
            "num_matches": self.num_matches,
            "inlier_spread": self.spread,
            "position_std": _finite(self.position_std),
            "position_std_rel": _finite(self.position_std_rel),
            "rotation_std_deg": _finite(self.rotation_std_deg),
            "warnings": self.warnings,
        }


def collect_points(
    model: Any, query: str, names: Sequence[str], features: FeatureStore, matches: MatchStore
) -> tuple[Array, list[int]]:
    """Gather which points of a model a new image shows, by its matches with the model's images.

    Args:
        model: a ``pycolmap.Reconstruction``.
        query: the new image.
        names: images of the model that it was matched with.
        features: of the new image.
        matches: of it with the images; which of the two is first does not matter.

    Returns:
        Positions, shape (match, 2), COLMAP pixels, and the point of each; each pair of a keypoint
        and a point once.
    """
    xy = features.read(query).keypoints.xy.numpy().astype(np.float64) + 0.5
    images = {model.images[i].name: model.images[i] for i in model.reg_image_ids()}
    found: dict[tuple[int, int], None] = {}
    for name in names:
        observed = images[name].points2D
        for row, other in matches.read(query, name).index.tolist():
            if observed[other].has_point3D():
                found[row, int(observed[other].point3D_id)] = None
    rows = [row for row, _ in found]
    return xy[rows].reshape(-1, 2), [point for _, point in found]


def localize(
    model: Any, query: QueryCamera, xy: Array, point_ids: Sequence[int], *, seed: int = 0
) -> Localization | None:
    """Estimate a new image's pose.

    The focal length is refined unless it is the model's or given. One that is not known is tried at
    several values, and the one with the most inliers is refined.

    Args:
        model: a ``pycolmap.Reconstruction``.
        query: the image's camera.
        xy: matched positions, shape (match, 2), COLMAP pixels.
        point_ids: the point of the model that each matches.
        seed: of RANSAC.

    Returns:
        The pose, or None where none was found.
    """
    if len(xy) < 4:
        return None
    points = np.array([model.points3D[i].xyz for i in point_ids], dtype=np.float64)
    side = max(query.camera.width, query.camera.height)
    cameras = [query.camera]
    if query.source == ESTIMATED:
        cameras = [with_focal(query.camera, share * side) for share in FOCALS]
    refine = NUM_INTRINSICS[query.source] > 0
    found = [(camera, _solve(camera, xy, points, refine, seed)) for camera in cameras]
    solved = [(camera, pose) for camera, pose in found if pose is not None]
    if not solved:
        return None
    camera, pose = min(solved, key=lambda item: compute_cost(item[0], item[1], xy, points))
    if query.source == ESTIMATED:
        camera, pose = refine_with_principal_point(camera, pose, xy, points)
    return _describe(model, query, camera, pose, xy, points)


def _solve(camera: Any, xy: Array, points: Array, refine: bool, seed: int) -> Any | None:
    """Return COLMAP's pose; the camera's focal length changes if it is refined."""
    estimation = pycolmap.AbsolutePoseEstimationOptions()
    compat.set_options(estimation, ransac__max_error=MAX_ERROR_PX, ransac__random_seed=seed)
    refinement = pycolmap.AbsolutePoseRefinementOptions()
    compat.set_options(refinement, refine_focal_length=refine, refine_extra_params=False)
    with compat.quiet():
        result = pycolmap.estimate_and_refine_absolute_pose(
            xy, points, camera, estimation, refinement
        )
    return None if result is None else result["cam_from_world"]


def _describe(
    model: Any, query: QueryCamera, camera: Any, pose: Any, xy: Array, points: Array
) -> Localization:
    errors = np.linalg.norm(project(camera, pose, points) - xy, axis=1)
    inliers = errors <= MAX_ERROR_PX
    covers = np.ptp(xy[inliers], axis=0).prod() if inliers.any() else 0.0
    deviations = compute_deviations(
        camera, pose, xy[inliers], points[inliers], num_intrinsics=NUM_INTRINSICS[query.source]
    )
    centres = np.array([model.images[i].projection_center() for i in model.reg_image_ids()])
    extent = compute_extent(centres)
    return Localization(
        cam_from_world=pose,
        camera=camera,
        source=query.source,
        num_inliers=int(inliers.sum()),
        num_matches=len(xy),
        spread=float(covers / (camera.width * camera.height)),
        position_std=deviations[1],
        position_std_rel=deviations[1] / extent if extent else float("inf"),
        rotation_std_deg=deviations[0],
    )


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
