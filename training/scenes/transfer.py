"""Where a keypoint of one photo lies in another photo of a reconstruction.

The reconstruction may be of any features: a keypoint is lifted to the plane that fits the scene
points about it, and projected from there. So the answer does not depend on whether a descriptor
matches the keypoint, and covers keypoints that belong to no track. The inverse depth of a plane is
an affine function of the position on the image plane, which makes the fit linear.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from scipy.spatial import cKDTree

from rekd_hloc.types import Keypoints
from training.scenes.geometry import Points, SceneGeometry, SceneView

NUM_NEIGHBOURS = 10
"""Scene points that a plane is fitted to."""
MIN_NEIGHBOURS = 5
"""Fewest scene points on the plane."""
MAX_DISTANCE = 0.1
"""Largest distance to the nearest scene points that are used, as a share of the longer side."""
MAX_ERROR_PX = 1.5
"""Largest error of a scene point that counts as on the plane, in pixels of either photo."""
PASSES = 3
"""Fits of a plane, each without the scene points that are off the one before."""


@dataclass(frozen=True, eq=False)
class LiftedKeypoints:
    """Keypoints of one view on the planes that fit the scene about them.

    Attributes:
        view: number of the view.
        keypoints: as they were given.
        plane: inverse depth as ``plane[0] x + plane[1] y + plane[2]`` of a ray.
        neighbour: rows of the scene points about each keypoint; -1 where there is none.
        on_plane: which of those lie on the plane.
        is_lifted: whether enough do.
    """

    view: int
    keypoints: Keypoints
    plane: Float64[np.ndarray, "keypoint 3"]
    neighbour: Int64[np.ndarray, "keypoint neighbour"]
    on_plane: Bool[np.ndarray, "keypoint neighbour"]
    is_lifted: Bool[np.ndarray, " keypoint"]


def lift(geometry: SceneGeometry, view: int, keypoints: Keypoints) -> LiftedKeypoints:
    """Fit a plane to the scene points about each keypoint of a view.

    A scene point counts as on the plane if it would move by at most ``MAX_ERROR_PX`` in the
    photo under a change of viewpoint of half a radian: that is the error of its depth, as a share,
    times half the focal length.
    """
    seen_by = geometry.views[view]
    xy = keypoints.xy.double().numpy()
    count = min(NUM_NEIGHBOURS, len(seen_by.xy))
    plane = np.zeros((len(xy), 3))
    if len(xy) == 0 or count < MIN_NEIGHBOURS:
        none = np.zeros((len(xy), NUM_NEIGHBOURS), dtype=bool)
        rows = np.full(none.shape, -1)
        return LiftedKeypoints(view, keypoints, plane, rows, none, np.zeros(len(xy), dtype=bool))
    reach = MAX_DISTANCE * max(seen_by.size)
    distance, nearest = cKDTree(seen_by.xy).query(xy, k=count, distance_upper_bound=reach)
    exists = np.isfinite(distance)
    nearest = np.where(exists, nearest, 0)
    neighbour = np.where(exists, seen_by.point[nearest], -1)
    camera_xyz = seen_by.to_camera(geometry.xyz[np.where(exists, neighbour, 0)].reshape(-1, 3))
    inverse_depth = (1 / camera_xyz[:, 2]).reshape(exists.shape)
    rays = (camera_xyz[:, :2] / camera_xyz[:, 2:]).reshape(*exists.shape, 2)
    focal = float(seen_by.camera.mean_focal_length())
    on_plane = exists
    for _ in range(PASSES):
        plane = _fit_planes(rays, inverse_depth, on_plane)
        fitted = (rays * plane[:, None, :2]).sum(axis=2) + plane[:, None, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            error_px = 0.5 * focal * np.abs(fitted / inverse_depth - 1)
        on_plane = exists & (error_px <= MAX_ERROR_PX)
    enough = on_plane.sum(axis=1) >= np.maximum(MIN_NEIGHBOURS, 0.6 * exists.sum(axis=1))
    is_lifted = enough & on_plane[:, :2].all(axis=1)
    return LiftedKeypoints(view, keypoints, plane, neighbour, on_plane, is_lifted)


def carry(
    geometry: SceneGeometry, lifted: LiftedKeypoints, view: int
) -> tuple[Keypoints, Bool[np.ndarray, " keypoint"]]:
    """Project lifted keypoints to another view.

    Returns:
        The keypoints there, with the angle and the scale that the plane gives, and whether each is
        seen: its plane faces both cameras, it lies in the photo, and the other view observes a
        scene point of the plane, within ``MAX_ERROR_PX`` of where the plane puts it.
    """
    of, to = geometry.views[lifted.view], geometry.views[view]
    xy = lifted.keypoints.xy.double().numpy()
    scale = lifted.keypoints.scale.double().numpy()
    angle = lifted.keypoints.angle.double().numpy()
    along = np.column_stack([np.cos(angle), np.sin(angle)])
    across = np.column_stack([-along[:, 1], along[:, 0]])
    middle = _through_plane(of, to, xy, lifted.plane)
    step = 0.5 * scale[:, None]
    columns = [
        (
            _through_plane(of, to, xy + step * side, lifted.plane)
            - _through_plane(of, to, xy - step * side, lifted.plane)
        )
        / scale[:, None]
        for side in (along, across)
    ]
    area = columns[0][:, 0] * columns[1][:, 1] - columns[0][:, 1] * columns[1][:, 0]
    width, height = to.size
    inside = ((middle >= 0) & (middle <= np.array([width - 1, height - 1]))).all(axis=1)
    with np.errstate(invalid="ignore"):
        is_seen = lifted.is_lifted & inside & (area > 0) & _is_confirmed(geometry, lifted, view)
    carried = Keypoints(
        xy=torch.from_numpy(np.where(is_seen[:, None], middle, 0)).float(),
        scale=torch.from_numpy(np.where(is_seen, scale * np.sqrt(np.abs(area)), 1)).float(),
        angle=torch.from_numpy(
            np.where(is_seen, np.arctan2(columns[0][:, 1], columns[0][:, 0]) % (2 * np.pi), 0)
        ).float(),
        score=lifted.keypoints.score,
    )
    return carried, is_seen


def transfer(
    geometry: SceneGeometry, of: int, to: int, keypoints: Keypoints
) -> tuple[Keypoints, Bool[np.ndarray, " keypoint"]]:
    """Lift keypoints of one view and project them to another; see :func:`lift`, :func:`carry`."""
    return carry(geometry, lift(geometry, of, keypoints), to)


def scene_points(
    geometry: SceneGeometry, lifted: LiftedKeypoints
) -> Float64[np.ndarray, "keypoint 3"]:
    """Return the place in the world of each lifted keypoint; nan for the others."""
    view = geometry.views[lifted.view]
    xyz = view.to_world(_on_plane(view, lifted.keypoints.xy.double().numpy(), lifted.plane))
    xyz[~lifted.is_lifted] = np.nan
    return xyz


def _fit_planes(
    rays: Float64[np.ndarray, "keypoint neighbour 2"],
    inverse_depth: Float64[np.ndarray, "keypoint neighbour"],
    used: Bool[np.ndarray, "keypoint neighbour"],
) -> Float64[np.ndarray, "keypoint 3"]:
    """Least squares, with a little weight on planes that face the camera where points are few."""
    middle = rays.mean(axis=1, keepdims=True)
    spread = np.abs(rays - middle).mean() + 1e-12
    design = np.concatenate([(rays - middle) / spread, np.ones((*rays.shape[:2], 1))], axis=2)
    weighted = design * used[:, :, None]
    normal = weighted.transpose(0, 2, 1) @ design + np.diag([1e-3, 1e-3, 1e-9])
    right = (weighted * inverse_depth[:, :, None]).sum(axis=1)
    slope = np.linalg.solve(normal, right[:, :, None])[:, :, 0]
    slope[:, :2] /= spread
    slope[:, 2] -= (slope[:, :2] * middle[:, 0]).sum(axis=1)
    return slope


def _on_plane(
    view: SceneView, xy: Points, plane: Float64[np.ndarray, "keypoint 3"]
) -> Float64[np.ndarray, "keypoint 3"]:
    """Points of the camera's frame where rays meet planes; behind the camera where they do not."""
    rays = view.to_rays(xy)
    inverse_depth = (rays * plane[:, :2]).sum(axis=1) + plane[:, 2]
    depth = np.where(inverse_depth > 1e-12, 1 / np.maximum(inverse_depth, 1e-12), -1)
    return np.column_stack([rays * depth[:, None], depth])


def _through_plane(
    of: SceneView, to: SceneView, xy: Points, plane: Float64[np.ndarray, "keypoint 3"]
) -> Points:
    on_plane = _on_plane(of, xy, plane)
    pixels = to.to_pixels(to.to_camera(of.to_world(on_plane)))
    pixels[on_plane[:, 2] <= 0] = np.nan
    return pixels


def _is_confirmed(
    geometry: SceneGeometry, lifted: LiftedKeypoints, view: int
) -> Bool[np.ndarray, " keypoint"]:
    """Whether a view observes a neighbour on the plane, and the plane puts it where it is seen."""
    of, to = geometry.views[lifted.view], geometry.views[view]
    observed = np.full((len(geometry.xyz), 2), np.nan)
    observed[to.point] = to.xy
    shape = lifted.neighbour.shape
    rows = np.where(lifted.on_plane, lifted.neighbour, 0)
    there = observed[rows]
    own = np.full((len(geometry.xyz), 2), 0.0)
    own[of.point] = of.xy
    planes = np.repeat(lifted.plane, shape[1], axis=0)
    expected = _through_plane(of, to, own[rows].reshape(-1, 2), planes).reshape(*shape, 2)
    error = np.linalg.norm(expected - there, axis=2)
    tested = lifted.on_plane & np.isfinite(there).all(axis=2)
    with np.errstate(invalid="ignore"):
        agrees = tested & (error <= MAX_ERROR_PX)
    confirmed: Bool[np.ndarray, " keypoint"] = agrees.any(axis=1) & (
        agrees.sum(axis=1) >= 0.7 * tested.sum(axis=1)
    )
    return confirmed
