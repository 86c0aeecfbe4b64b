"""Keypoints carried from photo to photo of a reconstruction, against known planes."""

import math

import numpy as np
import pycolmap
import pytest
import torch

from rekd_hloc.geometry import angle_difference
from rekd_hloc.types import Keypoints
from tests.wall_scene import FOCAL, SIZE, VIEWS, camera, make_wall
from training.scenes.geometry import SceneGeometry, SceneView
from training.scenes.transfer import lift, scene_points, transfer


@pytest.fixture(scope="module")
def wall(tmp_path_factory):
    folder, photos = make_wall(tmp_path_factory.mktemp("wall"))
    return SceneGeometry.read(folder / "sparse" / "0", photos)


def keypoints_at(xy, angle=0.3, scale=2.0):
    count = len(xy)
    return Keypoints(
        torch.as_tensor(xy).float(),
        torch.full((count,), scale),
        torch.full((count,), angle),
        torch.ones(count),
    )


def some_places(count=200, margin=60):
    rng = np.random.default_rng(1)
    width, height = SIZE
    return np.column_stack(
        [
            rng.uniform(margin, width - margin, count),
            rng.uniform(margin, height - margin, count),
        ]
    )


def through_the_wall(of, to, xy):
    """The same places of the wall z = 0 in another photo."""
    (rotation, translation), (other, shift) = camera(*VIEWS[of]), camera(*VIEWS[to])
    width, height = SIZE
    rays = (xy + 0.5 - np.array([width / 2, height / 2])) / FOCAL * translation[2]
    world = np.column_stack([rays, np.zeros(len(xy))]) @ rotation
    seen = world @ other.T + shift
    return seen[:, :2] / seen[:, 2:] * FOCAL + np.array([width / 2, height / 2]) - 0.5


@pytest.mark.parametrize("to", [1, 2, 3, 4])
def test_a_keypoint_is_carried_with_position_scale_and_angle(wall, to):
    xy = some_places()
    carried, is_seen = transfer(wall, 0, to, keypoints_at(xy))
    assert is_seen.mean() > 0.5
    error = np.abs(carried.xy.numpy() - through_the_wall(0, to, xy))[is_seen]
    assert error.max() < 1e-3
    turned = VIEWS[to][0] - VIEWS[0][0]
    difference = angle_difference(carried.angle[is_seen], torch.tensor(0.3 + turned))
    assert difference.abs().max() < 1e-4
    nearer = VIEWS[0][1] / VIEWS[to][1]
    assert carried.scale[is_seen].numpy() == pytest.approx(2.0 * nearer, rel=1e-4)


def test_places_far_from_every_scene_point_are_not_carried(wall):
    _, is_seen = transfer(wall, 0, 1, keypoints_at(np.array([[1.0, 1.0], [318.0, 238.0]])))
    assert not is_seen.any()


def test_no_keypoints_are_carried_to_none(wall):
    carried, is_seen = transfer(wall, 0, 1, keypoints_at(np.zeros((0, 2))))
    assert len(carried) == 0
    assert len(is_seen) == 0


def test_a_photo_that_sees_none_of_the_points_gets_none(tmp_path):
    hidden = {(1, i) for i in range(60)}
    folder, photos = make_wall(tmp_path, hidden=hidden)
    geometry = SceneGeometry.read(folder / "sparse" / "0", photos)
    assert not transfer(geometry, 0, 1, keypoints_at(some_places()))[1].any()
    assert transfer(geometry, 0, 2, keypoints_at(some_places()))[1].any()


def test_a_missing_photo_is_named(tmp_path):
    folder, photos = make_wall(tmp_path)
    (photos / "v1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"v1\.png"):
        SceneGeometry.read(folder / "sparse" / "0", photos)


def test_pairs_are_those_that_see_the_same_points(tmp_path):
    hidden = {(1, i) for i in range(30)} | {(2, i) for i in range(30, 60)}
    folder, photos = make_wall(tmp_path, hidden=hidden)
    geometry = SceneGeometry.read(folder / "sparse" / "0", photos)
    pairs = {pair[:2]: pair[2] for pair in geometry.covisible_pairs(1)}
    assert pairs[0, 3] == 60
    assert pairs[0, 1] == 30
    assert (1, 2) not in pairs


def step_scene(rng):
    """Two walls side by side, one at depth 4 and one at depth 8, and a camera moved sideways."""
    camera_model = pycolmap.Camera(
        model="SIMPLE_RADIAL", width=640, height=480, params=[500.0, 320.0, 240.0, -0.05]
    )
    xy = np.column_stack([rng.uniform(0, 639, 1500), rng.uniform(0, 479, 1500)])
    depth = np.where(xy[:, 0] < 320, 4.0, 8.0)
    rays = np.asarray(camera_model.cam_from_img(xy + 0.5))
    xyz = np.column_stack([rays, np.ones(len(xy))]) * depth[:, None]
    moved = np.array([-0.5, 0.0, 0.0])
    seen = np.asarray(camera_model.img_from_cam(xyz + moved)) - 0.5
    rows = np.arange(len(xy))
    size = (640, 480)
    views = (
        SceneView("a", None, size, camera_model, np.eye(3), np.zeros(3), xy, rows),
        SceneView("b", None, size, camera_model, np.eye(3), moved, seen, rows),
    )
    return SceneGeometry(views, xyz), camera_model, moved


def test_an_edge_in_depth_gives_no_wrong_places():
    rng = np.random.default_rng(3)
    geometry, camera_model, moved = step_scene(rng)
    xy = np.column_stack([rng.uniform(100, 600, 2000), rng.uniform(20, 460, 2000)])
    carried, is_seen = transfer(geometry, 0, 1, keypoints_at(xy))
    depth = np.where(xy[:, 0] < 320, 4.0, 8.0)
    rays = np.asarray(camera_model.cam_from_img(xy + 0.5))
    xyz = np.column_stack([rays, np.ones(len(xy))]) * depth[:, None]
    true = np.asarray(camera_model.img_from_cam(xyz + moved)) - 0.5
    error = np.linalg.norm(carried.xy.numpy() - true, axis=1)[is_seen]
    far = np.abs(xy[:, 0] - 320) > 40
    assert is_seen[far].mean() > 0.95
    assert (error < 0.5).mean() > 0.97
    assert error[far[is_seen]].max() < 0.1
    places = scene_points(geometry, lift(geometry, 0, keypoints_at(xy)))
    assert np.abs(places - xyz)[far & is_seen].max() < 0.01


def test_a_mirrored_plane_is_not_seen():
    """A camera behind the wall sees its points in the model, but not its front."""
    rng = np.random.default_rng(4)
    geometry, camera_model, _ = step_scene(rng)
    of = geometry.views[0]
    turned = np.diag([-1.0, 1.0, -1.0])
    away = np.array([0.0, 0.0, 12.0])
    xyz = geometry.xyz @ turned.T + away
    seen = np.asarray(camera_model.img_from_cam(xyz)) - 0.5
    behind = SceneView("c", None, of.size, camera_model, turned, away, seen, of.point)
    xy = np.column_stack([rng.uniform(400, 600, 50), rng.uniform(100, 400, 50)])
    other = SceneGeometry((of, behind), geometry.xyz)
    assert not transfer(other, 0, 1, keypoints_at(xy))[1].any()
    assert math.isfinite(float(seen.max()))
