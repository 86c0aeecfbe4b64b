"""Scenes that give a model with a small error and no truth in it, and sound ones beside them."""

import numpy as np
import pytest

from rekd_hloc.sfm.alignment import align_to_reference, read_reference
from rekd_hloc.sfm.degeneracy import ModelShape, find_notes, find_warnings
from rekd_hloc.sfm.mapping import RELAXED, select_models
from rekd_hloc.sfm.pair_motion import Motion, View, find_motion
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.sfm.reconstruct import reconstruct_from_files
from rekd_hloc.sfm.report import format_report
from rekd_hloc.sfm.scene_motion import find_places
from rekd_hloc.sfm.stages import MappingOptions
from tests.camera_paths import (
    FORWARD,
    along_x,
    corridor,
    directions,
    make_path_scene,
    room,
    wall,
)
from tests.synthetic_scene import FOCAL, SIZE

HERE = np.zeros((6, 3))
ONE_PLACE = {
    "panorama": (room(), HERE, directions(6)),
    "hand-held panorama": (
        room(),
        np.random.default_rng(1).normal(0, 0.008, (6, 3)),
        directions(6),
    ),
    "zoom": (room(), HERE, FORWARD, np.linspace(500, 1000, 6)),
    "panorama of a wall": (wall(), HERE, directions(6)),
    "copies": (room(), HERE, FORWARD),
}
SOUND = {
    "sideways": (room(), along_x(4, 6), FORWARD),
    "wall": (wall(), along_x(5, 6), 8 * FORWARD - along_x(2, 6)),
    "from the air": (
        wall(relief=0.2),
        np.column_stack([np.tile([-3, -1, 1, 3], 2), np.zeros(8), np.repeat([-1.5, 1.5], 4)]),
        FORWARD,
    ),
    "zoom and sideways": (room(), along_x(4, 6), FORWARD, np.linspace(500, 800, 6)),
}


QUICK = {"zoom", "sideways"}
"""Kinds that COLMAP maps at once; the others are marked slow."""


def kinds(scenes):
    return [
        kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in scenes
    ]


def rebuild(folder, scene, **options):
    made = make_path_scene(folder / "scene", *scene)
    options = MappingOptions(**{"camera_mode": "single", **options})
    report = reconstruct_from_files(
        made.features, made.matches, None, folder, folder / "out",
        options=options, reference=made.reference,
    )  # fmt: skip
    return made, report


@pytest.mark.parametrize("kind", kinds(ONE_PLACE))
def test_photos_from_one_place_are_called_so(tmp_path, kind):
    _, report = rebuild(tmp_path, ONE_PLACE[kind])
    geometry = report["geometry"]
    assert not geometry["has_parallax"]
    words = "show the same view" if kind == "copies" else "taken from one place"
    assert words in report["diagnosis"]
    assert "Move the camera" in report["diagnosis"]
    assert ("depth of this model is invented" in report["diagnosis"]) == bool(report["num_models"])
    assert all("relaxed" not in attempt for attempt in report["attempts"])
    assert report["diagnosis"] in format_report(report)
    assert set(geometry["configurations"]) <= {"planar_or_panoramic", "uncalibrated", "degenerate"}


@pytest.mark.parametrize("kind", kinds(SOUND))
def test_sound_scenes_are_not_warned_of(tmp_path, kind):
    _, report = rebuild(tmp_path, SOUND[kind], camera_mode="auto" if "zoom" in kind else "single")
    assert report["geometry"]["has_parallax"]
    assert report["geometry"]["warnings"] == []
    assert report["diagnosis"] == ""
    flat = [note for note in report["geometry"]["notes"] if "nearly flat" in note]
    assert len(flat) == (kind == "wall")
    assert report["rotation_error_deg"]["max"] < 2


@pytest.mark.slow
def test_a_wrong_focal_length_of_cameras_that_never_turn_is_told_once(tmp_path):
    _, report = rebuild(tmp_path, (room(), along_x(3, 8), FORWARD))
    (camera,) = report["cameras"]
    is_right = abs(camera["refined_focal_px"] / FOCAL - 1) < 0.2
    told = "impossible parameters to one camera (v00.png: focal length"
    assert is_right or told in report["diagnosis"]


@pytest.mark.slow
def test_the_half_of_a_scene_that_is_a_panorama_is_named(tmp_path):
    centres = np.concatenate([np.zeros((4, 3)), along_x(4, 4)])
    looks = np.concatenate([directions(4), np.tile(FORWARD, (4, 1))])
    _, report = rebuild(tmp_path, (room(), centres, looks))
    assert report["num_registered"] == 8
    assert report["geometry"]["warnings"] == []
    (note,) = report["geometry"]["notes"]
    assert "4 images were taken from one place (v00.png, v01.png, v02.png, v03.png)" in note
    assert note in format_report(report)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["forward", "forward, few points", "small baseline"])
def test_a_relaxed_start_finds_what_colmaps_limits_refuse(tmp_path, kind):
    jitter = np.random.default_rng(3).normal(0, 0.04, (8, 3)) * [1, 0.2, 1]
    ahead = np.outer(np.linspace(0, 4.2, 8), FORWARD) + jitter
    scene = {
        "forward": (corridor(), ahead, FORWARD),
        "forward, few points": (corridor(200), ahead, FORWARD),
        "small baseline": (room(), along_x(0.6, 8), FORWARD),
    }[kind]
    made, report = rebuild(tmp_path, scene)
    assert report["num_registered"] == 8
    *before, last = report["attempts"]
    assert last["relaxed"] == RELAXED
    assert all("relaxed" not in attempt for attempt in before)
    assert "init_min_tri_angle 1.5" in report["diagnosis"]
    model = pycolmap.Reconstruction(str(tmp_path / "out" / "sparse" / "0"))
    errors = align_to_reference(model, read_reference(made.reference))
    assert errors.rotation_deg.max() < 1.0
    assert errors.center_rel.max() < 0.02


def shape(**changes):
    usual = {
        "median_angle_deg": 20.0,
        "p90_angle_deg": 40.0,
        "baseline_per_depth": 1.0,
        "median_observations": 200.0,
        "implausible": {},
    }
    return ModelShape(**{**usual, **changes})


PARALLAX = {("a", "b"): Motion.PARALLAX, ("b", "c"): Motion.PLANE}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"median_angle_deg": 2.6}, "2.6 degrees"),
        ({"median_observations": 3.0}, "sees 3 points"),
        ({"implausible": {"a": "focal length 9 px at 480 px"}}, "one camera (a: focal length 9 px"),
    ],
)
def test_weak_models_are_warned_of(changes, words):
    warnings = find_warnings(PARALLAX, shape(**changes))
    assert len(warnings) == (words is not None)
    assert words is None or words in warnings[0]
    assert find_warnings(PARALLAX, None) == []


def test_neighbours_of_a_slow_video_are_no_place():
    names = "abcde"
    near = dict.fromkeys(zip(names, names[1:], strict=False), Motion.ROTATION)
    far = {("a", "c"): Motion.PARALLAX, ("b", "d"): Motion.PARALLAX, ("a", "e"): Motion.PARALLAX}
    assert find_places(near | far) == []
    assert find_places(near) == [list(names)]
    assert find_notes({**far, **{("x", "y"): Motion.SAME_VIEW}}) == []
    copies = dict.fromkeys([("x", "y"), ("y", "z"), ("x", "z")], Motion.SAME_VIEW)
    assert "3 images show the same view (x, y, z)" in find_notes(far | copies)[0]


@pytest.mark.parametrize("distortion", [-0.15, 0.0, 0.1])
def test_a_lens_does_not_hide_a_rotation(distortion):
    xyz = room(300, seed=2)
    angle = np.radians(15)
    turn = np.array(
        [[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]]
    )
    looking = xyz @ np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]]).T
    views = []
    for rotation, shift in ((np.eye(3), 0.0), (turn, 0.0), (turn, 0.8)):
        seen = looking @ rotation.T - np.array([shift, 0, 0])
        plane = seen[:, :2] / seen[:, 2:]
        xy = FOCAL * plane * (1 + distortion * (plane**2).sum(1, keepdims=True))
        views.append(View(xy + np.array(SIZE) / 2, SIZE))
    inside = np.logical_and.reduce([((v.xy >= 0) & (v.xy < np.array(SIZE))).all(1) for v in views])
    still, turned, moved = (View(v.xy[inside], SIZE) for v in views)
    assert find_motion(still, turned, planar=True) == Motion.ROTATION
    assert find_motion(still, moved, planar=False) == Motion.PARALLAX


def test_leftovers_whose_images_are_in_a_larger_model_are_dropped():
    class Image:
        def __init__(self, name):
            self.name = name

    class Model:
        def __init__(self, names, points):
            self.names, self.points = names, points
            self.images = dict(enumerate(map(Image, names)))

        def reg_image_ids(self):
            return list(self.images)

        def num_reg_images(self):
            return len(self.names)

        def num_points3D(self):  # noqa: N802  (COLMAP's)
            return self.points

    models = [
        Model("ab", 9),
        Model("abcde", 50),
        Model("efg", 20),
        Model("xyz", 0),
        Model("abcde", 60),
    ]
    assert [(m.names, m.points) for m in select_models(models)] == [("abcde", 60), ("efg", 20)]
