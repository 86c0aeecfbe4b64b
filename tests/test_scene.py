import dataclasses
import json

import cv2
import numpy as np
import pytest

from evaluation.rendering.courtyard import CENTRE
from evaluation.rendering.masonry import BRICK_COLORS, lay_courses, lay_paving
from evaluation.rendering.noise import to_bytes
from evaluation.rendering.prints import print_poster
from evaluation.rendering.raycast import Camera, light_world, render
from evaluation.rendering.scene import look_at, plan_views, render_scene, write_reference
from evaluation.rendering.sensor import draw_light, expose
from evaluation.rendering.surfaces import Surface, Texture, make_box, make_level, make_wall
from rekd_hloc.images import read_color
from rekd_hloc.sfm.alignment import read_reference
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from tests.helpers import without_shape_checks

SKY = np.full((4, 8, 3), 128, np.uint8)
BOARD_SQUARES = 6
SQUARE_TEXELS = 40


def build_corner(rng):
    """A small world in place of the courtyard, which takes long to paint."""
    shape = (420, 520)
    stone = [lay_paving(shape, rng, stone_px=40, joint_px=3) for _ in range(2)]
    bricks = lay_courses(
        shape, rng, course_px=14, length_px=40, joint_px=3, colors=BRICK_COLORS, bevel=0.2
    )
    walls = [
        make_level((0.0, 0.0), (9.0, 9.0), 0.0, Texture(to_bytes(stone[0]))),
        make_wall((-5.0, 2.0), (0.0, 5.0), 0.0, 4.0, Texture(to_bytes(bricks))),
        make_wall((0.0, 5.0), (5.0, 2.0), 0.0, 4.0, Texture(to_bytes(stone[1]))),
    ]
    poster = Texture(print_poster(1.2, 1.6, rng))
    return light_world([*walls, *make_box((0, 1), (1.4, 1.4, 1.8), 0, 20, [poster], poster)], SKY)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Four views of a small world."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluation.rendering.scene.build_courtyard", build_corner)
        folder = tmp_path_factory.mktemp("scene") / "demo"
        return render_scene(folder, num_views=4, size=(320, 240), seed=3)


def flat_texture(value, height=8, width=8):
    return Texture(np.full((height, width, 3), value, np.uint8))


def chessboard():
    rows, columns = np.indices((BOARD_SQUARES, BOARD_SQUARES))
    squares = ((rows + columns) % 2 * 255).astype(np.uint8)
    image = np.kron(squares, np.ones((SQUARE_TEXELS, SQUARE_TEXELS), np.uint8))
    return Texture(np.repeat(image[..., None], 3, axis=2))


def camera_at(centre, target=(0.0, 0.0, 0.0), roll_deg=0.0, size=(160, 120), focal=150.0):
    centre = np.array(centre, dtype=float)
    rotation = look_at(centre, np.array(target, dtype=float), roll_deg)
    return Camera(rotation, centre, focal, (size[0] / 2, size[1] / 2), size)


def test_points_are_drawn_where_the_written_reference_projects_them(tmp_path):
    view = plan_views(5, (320, 240), seed=1)[3]
    forward, right = view.camera.rotation[2], view.camera.rotation[0]
    middle = view.camera.centre + 3.0 * forward
    edge_u = right + 0.4 * forward
    edge_v = np.cross(forward, right) - 0.3 * forward
    board = Surface(middle - 0.5 * edge_u - 0.5 * edge_v, edge_u, edge_v, chessboard())
    image = render(light_world([board], SKY), view.camera, supersampling=2)
    write_reference([view], tmp_path)
    model = pycolmap.Reconstruction(str(tmp_path))
    image_in_model = next(iter(model.images.values()))
    assert image_in_model.name == view.name
    steps = np.arange(1, BOARD_SQUARES) / BOARD_SQUARES
    corners = np.array([board.point_at(u, v) for u in steps for v in steps])
    in_camera = np.array([image_in_model.cam_from_world() * point for point in corners])
    predicted = model.cameras[1].img_from_cam(in_camera) - 0.5  # COLMAP's origin is a corner
    np.testing.assert_allclose(view.camera.project(corners), predicted, atol=1e-8)
    grey = np.clip(image.mean(2) * 255, 0, 255).astype(np.uint8)
    found = cv2.cornerSubPix(
        grey,
        predicted[:, None].astype(np.float32) + np.float32(0.7),
        (4, 4),
        (-1, -1),
        (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 50, 1e-4),
    )
    error = np.linalg.norm(found[:, 0] - predicted, axis=1)
    assert error.max() < 0.15  # half a pixel of any convention would show


def test_distant_texture_is_averaged_not_aliased():
    fine = np.indices((256, 256)).sum(0) % 2 * 255
    texture = Texture(np.repeat(fine[..., None].astype(np.uint8), 3, axis=2))
    wall = make_wall((-1.0, 0.0), (1.0, 0.0), -1.0, 1.0, texture)
    camera = camera_at((0.0, -6.0, 0.0))
    image = render(light_world([wall], SKY), camera, sun=(0, 0, 0), ambient=(1, 1, 1))
    patch = image[50:70, 70:90, 0]
    assert patch.std() < 0.01 * patch.mean()


def test_nearer_surface_hides_farther_one_except_through_holes():
    far = make_wall((-4, 2), (4, 2), -4, 4, flat_texture(60))
    rgba = np.full((64, 64, 4), 240, np.uint8)
    rgba[:, :32, 3] = 0
    near = make_wall((-1, 0), (1, 0), -1, 1, Texture(rgba))
    camera = camera_at((0.0, -4.0, 0.0))
    for surfaces in ([far, near], [near, far]):
        image = render(light_world(surfaces, SKY), camera, sun=(0, 0, 0), ambient=(1, 1, 1))
        hole, solid, beside = image[60, 65, 0], image[60, 95, 0], image[60, 20, 0]
        assert solid > 3 * hole
        assert hole == pytest.approx(beside, rel=0.5)


def test_back_of_a_wall_is_not_drawn():
    wall = make_wall((-1, 0), (1, 0), -1, 1, flat_texture(0))
    behind = render(light_world([wall], SKY), camera_at((0.0, 4.0, 0.0)))
    front = render(light_world([wall], SKY), camera_at((0.0, -4.0, 0.0)))
    assert behind[60, 80].min() > 0.1
    assert front[60, 80].max() == 0.0


def test_a_camera_inside_the_scene_sees_what_crosses_its_plane():
    ground = make_level((0.0, 0.0), (20.0, 20.0), 0.0, flat_texture(200))
    camera = camera_at((0.0, 0.0, 1.0), target=(0.0, 3.0, 1.0))
    image = render(light_world([ground], SKY), camera, sun=(0, 0, 0), ambient=(1, 1, 1))
    below, above = image[80:, :, 0], image[:55, :, 0]
    assert np.ptp(below) < 1e-3
    assert np.allclose(above, (128 / 255) ** 2.2, atol=1e-3)
    assert below.mean() > 1.5 * above.mean()


def test_things_cast_shadows_away_from_the_sun():
    ground = make_level((0.0, 0.0), (10.0, 10.0), 0.0, flat_texture(200))
    box = make_box((0.0, 0.0), (1.0, 1.0, 2.0), 0.0, 0.0, [flat_texture(90)], flat_texture(90))
    world = light_world([ground, *box], SKY)
    sun = world.light[0].sun
    rows, columns = sun.shape

    def at(x, y):
        return sun[int((5 - y) / 10 * rows), int((5 + x) / 10 * columns)]

    assert at(-0.25, 1.2) < 0.05  # the sun stands at +x -y, the shadow falls to -x +y
    assert at(0.25, -1.2) > 0.5
    assert world.light[1].sun.min() > 0.3  # the side to the sun
    assert world.light[3].sun.max() == 0.0  # the side away from it


def test_views_surround_the_scene_and_roll_by_all_angles():
    views = plan_views(12, (640, 480), seed=0)
    rolls = np.sort([view.roll_deg for view in views])
    assert (np.floor(rolls / 30) == np.arange(12)).all()
    rays = np.array([view.camera.centre - CENTRE for view in views])
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    baseline_deg = np.degrees(np.arccos((rays[1:] * rays[:-1]).sum(1)))
    assert baseline_deg.min() > 9.9
    assert baseline_deg.max() < 20.5
    for view in views:
        x, y = view.camera.project(CENTRE[None])[0]
        assert abs(x - 319.5) < 120
        assert abs(y - 239.5) < 120
    assert len({view.light.exposure for view in views}) == 12


def test_roll_turns_the_picture_the_other_way():
    centre, target = np.array((3.0, -7.0, 2.0)), np.array((0.0, 1.0, 1.0))
    for roll_deg in (0.0, 40.0, 135.0, 300.0):
        up = look_at(centre, target, roll_deg) @ np.array((0.0, 0.0, 1.0))
        turned = np.degrees(np.arctan2(up[1], up[0])) + 90.0  # 0 where up is up on the screen
        assert (turned + roll_deg + 180) % 360 == pytest.approx(180)


def test_scene_folder_is_complete_and_agrees_with_itself(scene):
    names = [f"view_{k:02d}.png" for k in range(4)]
    assert sorted(path.name for path in (scene / "images").iterdir()) == names
    described = json.loads((scene / "cameras.json").read_text())
    poses = read_reference(scene / "reference")
    assert list(poses) == names
    for view in described["views"]:
        pose = poses[view["name"]]
        np.testing.assert_allclose(pose.rotation, view["cam_from_world_rotation"], atol=1e-12)
        np.testing.assert_allclose(pose.centre, view["centre"], atol=1e-12)
    model = pycolmap.Reconstruction(str(scene / "reference"))
    assert model.cameras[1].params.tolist() == described["camera"]["params"]
    assert not list(scene.parent.glob("*.tmp"))


def test_pictures_have_structure_and_changing_light(scene):
    images = [read_color(path) for path in sorted((scene / "images").iterdir())]
    for image in images:
        assert image.shape == (240, 320, 3)
        assert image.std() > 25
        assert (image == 255).all(axis=2).mean() < 0.05
    means = [image.mean() for image in images]
    assert max(means) - min(means) > 8


def test_real_matches_obey_the_true_geometry_and_no_single_plane(scene):
    model = pycolmap.Reconstruction(str(scene / "reference"))
    first, second = model.images[2], model.images[3]
    xy_a, xy_b = match_sift(scene / "images" / first.name, scene / "images" / second.name)
    assert len(xy_a) > 80
    second_from_first = second.cam_from_world() * first.cam_from_world().inverse()
    tx, ty, tz = second_from_first.translation
    cross = np.array([[0, -tz, ty], [tz, 0, -tx], [-ty, tx, 0]])
    inverse = np.linalg.inv(model.cameras[1].calibration_matrix())
    fundamental = inverse.T @ cross @ second_from_first.rotation.matrix() @ inverse
    error = epipolar_error(fundamental, xy_a + 0.5, xy_b + 0.5)
    assert np.median(error) < 0.5
    good = error < 1.0
    assert good.mean() > 0.7
    _, on_plane = cv2.findHomography(xy_a[good], xy_b[good], cv2.RANSAC, 2.0)
    assert on_plane.mean() < 0.8


def match_sift(path_a, path_b):
    sift = cv2.SIFT_create(2000)
    found = [
        sift.detectAndCompute(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), None)
        for path in (path_a, path_b)
    ]
    pairs = cv2.BFMatcher().knnMatch(found[0][1], found[1][1], k=2)
    kept = [a for a, b in pairs if a.distance < 0.75 * b.distance]
    xy_a = np.array([found[0][0][m.queryIdx].pt for m in kept])
    xy_b = np.array([found[1][0][m.trainIdx].pt for m in kept])
    return xy_a, xy_b


def epipolar_error(fundamental, xy_a, xy_b):
    a = np.column_stack([xy_a, np.ones(len(xy_a))])
    b = np.column_stack([xy_b, np.ones(len(xy_b))])
    line_b, line_a = a @ fundamental.T, b @ fundamental
    residual = np.abs((b * line_b).sum(1))
    norm = np.sqrt((line_a[:, :2] ** 2).sum(1) + (line_b[:, :2] ** 2).sum(1))
    return residual / norm


def test_same_seed_same_textures_other_seed_others():
    def draw(seed):
        return print_poster(0.3, 0.4, np.random.default_rng(seed))

    np.testing.assert_array_equal(draw(5), draw(5))
    assert (draw(6) != draw(5)).mean() > 0.5


def test_same_seed_same_views_other_seed_others():
    first, again, other = (plan_views(6, (64, 48), seed) for seed in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.camera.rotation, b.camera.rotation)
        assert a.light == b.light
    assert first[0].light != other[0].light


@pytest.mark.slow
def test_courtyard_same_seed_same_files(tmp_path):
    first = render_scene(tmp_path / "first", num_views=2, size=(320, 240), seed=3)
    again = render_scene(tmp_path / "again", num_views=2, size=(320, 240), seed=3)
    files = sorted(path for path in first.rglob("*") if path.is_file())
    assert len(files) == 6
    for path in files:
        assert (again / path.relative_to(first)).read_bytes() == path.read_bytes()
    for path in (first / "images").iterdir():
        assert read_color(path).std() > 25


def test_exposure_and_noise_do_what_they_say():
    radiance = np.full((120, 160, 3), 0.3, np.float32)
    light = draw_light(np.random.default_rng(0))
    plain = dataclasses.replace(
        light, gradient=0.0, vignetting=0.0, noise=0.0, exposure=1.0, cast=(1, 1, 1), gamma=1.0
    )

    def shoot(seed=0, **changes):
        setting = dataclasses.replace(plain, **changes)
        return expose(radiance, setting, np.random.default_rng(seed)).astype(float)

    assert np.ptp(shoot()) == 0
    assert shoot()[0, 0, 0] == pytest.approx(255 * 0.3 ** (1 / 2.2), abs=1)
    assert shoot(exposure=1.5).mean() > shoot().mean() + 20
    corner, middle = shoot(vignetting=0.3)[[0, 60], [0, 80], 0]
    assert corner < middle - 10
    assert 1.0 < shoot(noise=2.0).std() < 3.0
    red, _, blue = shoot(cast=(1.1, 1.0, 0.9)).mean((0, 1))
    assert red > blue + 5
    left, right = shoot(gradient=0.15, gradient_deg=0.0).mean((0, 2))[[0, -1]]
    assert right > left + 10


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="at least 1 view"):
        render_scene(tmp_path / "a", num_views=0)
    with pytest.raises(ValueError, match="negative"):
        render_scene(tmp_path / "a", seed=-1)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("keep me")
    with without_shape_checks(), pytest.raises(ValueError, match="letters"):
        render_scene(tmp_path / "letters")
    assert (tmp_path / "letters" / "dear.txt").read_text() == "keep me"
    assert not (tmp_path / "a").exists()
