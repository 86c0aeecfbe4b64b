import json

import cv2
import numpy as np
import pytest

from evaluation.rotated_images import canvas_from_image, rotate_folder, rotate_image, rotate_poses
from rekd_hloc.images import read_color, read_mask
from rekd_hloc.sfm.alignment import Pose
from tests.helpers import textured_image


def picture(height=60, width=90, seed=0):
    return np.repeat(textured_image(height, width, seed)[..., None], 3, axis=2)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3, 4, 7])
def test_quarter_rotations_move_pixels_clockwise_without_change(quarters):
    image = picture()
    canvas, mask = rotate_image(image, 90.0 * quarters)
    np.testing.assert_array_equal(canvas, np.rot90(image, -quarters))
    assert (mask == 255).all()


@pytest.mark.parametrize("angle_deg", [10.0, 77.3, 200.0, 359.0])
def test_canvas_is_the_smallest_that_holds_the_image(angle_deg):
    matrix, (width, height) = canvas_from_image((90, 60), angle_deg)
    edges = np.array([(-0.5, -0.5), (89.5, -0.5), (89.5, 59.5), (-0.5, 59.5)])
    moved = edges @ matrix[:2, :2].T + matrix[:2, 2]
    assert (moved >= -0.5 - 1e-3).all()
    assert (moved <= (width - 0.5 + 1e-3, height - 0.5 + 1e-3)).all()
    assert (np.ptp(moved, axis=0) > (width - 1, height - 1)).all()


@pytest.mark.parametrize("angle_deg", [33.0, 121.0, 290.0])
def test_a_dot_lands_where_the_map_says(angle_deg):
    image = np.zeros((60, 90, 3), np.uint8)
    cv2.circle(image, (70, 20), 3, (255, 255, 255), -1)
    canvas, _ = rotate_image(image, angle_deg)
    matrix, _ = canvas_from_image((90, 60), angle_deg)
    weight = canvas[..., 0].astype(float)
    rows, columns = np.indices(weight.shape)
    found = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()
    expected = matrix[:2, :2] @ (70, 20) + matrix[:2, 2]
    np.testing.assert_allclose(found, expected, atol=0.1)
    centre = (np.array(canvas.shape[1::-1]) - 1) / 2
    before, after = np.array((70, 20)) - (44.5, 29.5), found - centre
    rotation = np.degrees(np.arctan2(after[1], after[0]) - np.arctan2(before[1], before[0]))
    assert (rotation - angle_deg + 180) % 360 - 180 == pytest.approx(0, abs=0.5)


@pytest.mark.parametrize("angle_deg", [5.0, 45.0, 222.0])
def test_mask_holds_image_pixels_only_and_nearly_all_of_them(angle_deg):
    canvas, mask = rotate_image(np.full((60, 90, 3), 200, np.uint8), angle_deg)
    assert set(np.unique(mask)) == {0, 255}
    inside = mask == 255
    assert (np.abs(canvas[inside].astype(int) - 200) <= 1).all()
    assert 89 * 59 - 160 < inside.sum() <= 90 * 60
    far = cv2.dilate(mask, np.ones((5, 5), np.uint8)) == 0
    assert (canvas[far] == 0).all()


def test_one_pixel_and_input_unchanged():
    image = np.full((1, 1, 3), 9, np.uint8)
    canvas, mask = rotate_image(image, 30.0)
    assert canvas.shape[:2] == mask.shape
    image = picture()
    before = image.copy()
    rotate_image(image, 12.0)
    np.testing.assert_array_equal(image, before)


def test_folder_is_rotated_with_masks_named_as_colmap_does(tmp_path):
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    cv2.imwrite(str(images / "a b.jpg"), picture())
    cv2.imwrite(str(images / "sub" / "a b.png"), picture(seed=1))
    angles = rotate_folder(images, tmp_path / "out", seed=4)
    assert list(angles) == ["a b.png", "sub/a b.png"]
    assert angles == rotate_folder(images, tmp_path / "again", seed=4)
    assert angles != rotate_folder(images, tmp_path / "other", seed=5)
    assert json.loads((tmp_path / "out" / "angles.json").read_text()) == angles
    for name, angle_deg in angles.items():
        _, (width, height) = canvas_from_image((90, 60), angle_deg)
        assert read_color(tmp_path / "out" / "images" / name).shape == (height, width, 3)
        mask = read_mask(tmp_path / "out" / "masks" / f"{name}.png")
        assert mask.shape == (height, width)
        assert 0.2 < mask.mean() <= 1.0


def test_two_images_of_one_new_name_are_refused(tmp_path):
    for ending in ("png", "bmp"):
        cv2.imwrite(str(tmp_path / f"same.{ending}"), picture())
    with pytest.raises(ValueError, match=r"same\.png"):
        rotate_folder(tmp_path, tmp_path / "out", seed=0)


@pytest.mark.parametrize("angle_deg", [90.0, 213.0])
def test_rotated_pose_projects_to_rotated_pixels(angle_deg):
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    rotation *= np.linalg.det(rotation)
    pose = Pose(rotation, np.array((1.0, -2.0, 0.5)))
    rotated = rotate_poses({"a": pose}, {"a.png": angle_deg, "unknown.png": 3.0})
    assert list(rotated) == ["a.png"]
    np.testing.assert_array_equal(rotated["a.png"].centre, pose.centre)
    points = pose.centre + np.random.default_rng(1).uniform(-1, 1, (5, 3)) + 4 * rotation[2]
    matrix, size = canvas_from_image((90, 60), angle_deg)

    def project(pose, size):
        x, y, z = ((points - pose.centre) @ pose.rotation.T).T
        return np.column_stack([80 * x / z + (size[0] - 1) / 2, 80 * y / z + (size[1] - 1) / 2])

    upright = project(pose, (90, 60))
    expected = upright @ matrix[:2, :2].T + matrix[:2, 2]
    np.testing.assert_allclose(project(rotated["a.png"], size), expected, atol=1e-9)
