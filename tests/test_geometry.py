import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rekd_hloc.geometry import (
    TWO_PI,
    angle_difference,
    homography_jacobian,
    resize_matrix,
    rotation_about,
    warp_angles,
    warp_points,
    warp_scales,
    wrap_angle,
)
from tests.helpers import without_shape_checks

seeds = st.integers(0, 10_000)


def random_homography(seed, perspective=3e-4):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(3, 3, generator=generator, dtype=torch.float64) * 2 - 1
    bound = torch.tensor([[0.4, 0.4, 40], [0.4, 0.4, 40], [perspective, perspective, 0]])
    return torch.eye(3, dtype=torch.float64) + noise * bound


def random_points(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 2, generator=generator, dtype=torch.float64) * 600


# ---------------------------------------------------------------- angles


@given(st.floats(-1e4, 1e4))
def test_wrapped_angles_are_in_range_and_point_the_same_way(value):
    for dtype, tolerance in ((torch.float32, 2e-3), (torch.float64, 1e-9)):
        angle = torch.tensor(value, dtype=dtype)
        wrapped = wrap_angle(angle)
        assert 0 <= float(wrapped) < TWO_PI
        assert wrapped.dtype == dtype
        assert float(wrapped.cos()) == pytest.approx(math.cos(value), abs=tolerance)
        assert float(wrapped.sin()) == pytest.approx(math.sin(value), abs=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_just_below_zero_does_not_become_a_full_turn(dtype):
    tiny = torch.tensor([-1e-30, -1e-8, -0.0, 0.0, TWO_PI, -TWO_PI], dtype=dtype)
    wrapped = wrap_angle(tiny).double()
    assert bool(((wrapped >= 0) & (wrapped < TWO_PI)).all())


@given(st.floats(-7, 7), st.floats(-7, 7))
def test_the_difference_is_the_shortest_turn_from_b_to_a(a, b):
    turn = float(angle_difference(torch.tensor(a).double(), torch.tensor(b).double()))
    assert -math.pi <= turn < math.pi
    assert math.cos(b + turn) == pytest.approx(math.cos(a), abs=1e-6)
    assert math.sin(b + turn) == pytest.approx(math.sin(a), abs=1e-6)


# ---------------------------------------------------------------- points


@given(seeds, st.integers(1, 12))
def test_points_move_as_opencv_moves_them(seed, count):
    homography, xy = random_homography(seed), random_points(count, seed)
    expected = cv2.perspectiveTransform(xy.numpy()[None], homography.numpy())[0]
    assert np.allclose(warp_points(homography, xy).numpy(), expected, rtol=1e-9, atol=1e-6)


@given(seeds, st.integers(0, 12))
def test_the_inverse_moves_back(seed, count):
    homography, xy = random_homography(seed), random_points(count, seed)
    there = warp_points(homography, xy)
    assert torch.allclose(warp_points(torch.linalg.inv(homography), there), xy, atol=1e-6)
    angle = torch.linspace(0, 6.28, count).double()
    turned = warp_angles(homography, xy, angle)
    back = warp_angles(torch.linalg.inv(homography), there, turned)
    assert bool((angle_difference(back, angle).abs() < 1e-6).all())
    scale = torch.linspace(0.5, 8, count).double()
    grown = warp_scales(homography, xy, scale)
    assert torch.allclose(warp_scales(torch.linalg.inv(homography), there, grown), scale)


def test_float32_points_move_in_the_finer_precision():
    homography = rotation_about(0.3, (3000.0, 2000.0))
    xy = torch.tensor([[5999.25, 3999.75]])
    moved = warp_points(homography, xy)
    assert moved.dtype == torch.float32
    exact = warp_points(homography, xy.double())
    assert torch.allclose(moved.double(), exact, atol=2.5e-4)  # half a step of float32 there
    mistake = pytest.raises(ValueError, match="floating-point dtype, got torch.int64")
    with without_shape_checks(), mistake:
        warp_points(homography, xy.long())


def test_a_point_that_goes_to_infinity_is_not_finite():
    homography = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-0.01, 0, 1]])
    moved = warp_points(homography, torch.tensor([[100.0, 7.0], [50.0, 7.0]]))
    assert not bool(torch.isfinite(moved[0]).any())
    assert moved[1].tolist() == pytest.approx([100.0, 14.0])


def test_nothing_is_written_into_the_arguments():
    homography, xy = random_homography(1), random_points(3, 1)
    before = homography.clone(), xy.clone()
    warp_points(homography, xy)
    warp_angles(homography, xy, torch.zeros(3).double())
    assert torch.equal(homography, before[0])
    assert torch.equal(xy, before[1])


# ---------------------------------------------------------------- first order


@given(seeds)
def test_jacobian_angles_and_scales_are_those_of_a_small_square(seed):
    homography, xy = random_homography(seed), random_points(4, seed)
    step = 1e-4
    right, down = torch.tensor([[step, 0], [0, step]]).double()
    moved = warp_points(homography, xy)
    along_x = (warp_points(homography, xy + right) - moved) / step
    along_y = (warp_points(homography, xy + down) - moved) / step
    jacobian = homography_jacobian(homography, xy)
    assert torch.allclose(jacobian, torch.stack([along_x, along_y], dim=2), atol=1e-4)
    zero = torch.zeros(4).double()
    expected = torch.atan2(along_x[:, 1], along_x[:, 0])
    difference = angle_difference(warp_angles(homography, xy, zero), expected)
    assert bool((difference.abs() < 1e-3).all())
    area = (along_x[:, 0] * along_y[:, 1] - along_x[:, 1] * along_y[:, 0]).abs()
    assert torch.allclose(warp_scales(homography, xy, zero + 3), 3 * area.sqrt(), rtol=1e-3)


def test_a_turn_adds_its_angle():
    xy, angle = random_points(5, 0), torch.tensor([0.0, 1, 2, 4, 6]).double()
    turned = warp_angles(rotation_about(1.2, (50, 80)), xy, angle)
    assert torch.allclose(turned, wrap_angle(angle + 1.2))
    assert torch.allclose(
        warp_scales(rotation_about(1.2, (50, 80), scale=2.5), xy, angle + 1), 2.5 * (angle + 1)
    )


# ---------------------------------------------------------------- against OpenCV


def test_a_positive_turn_is_clockwise_on_the_screen():
    """From +x towards +y, which points down; OpenCV's matrix takes angles the other way."""
    turn = rotation_about(math.radians(90), (10.0, 20.0))
    assert warp_points(turn, torch.tensor([[11.0, 20.0]])).tolist()[0] == pytest.approx([10, 21])
    for degrees, scale in ((37.0, 1.0), (-120.0, 0.7), (200.0, 3.0)):
        matrix = rotation_about(math.radians(degrees), (31.5, 12.0), scale)
        expected = cv2.getRotationMatrix2D((31.5, 12.0), -degrees, scale)
        assert np.allclose(matrix[:2].numpy(), expected)
        assert matrix[2].tolist() == [0, 0, 1]


def centre_of_mass(image):
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    total = image.sum()
    return [(columns * image).sum() / total, (rows * image).sum() / total]


@pytest.mark.parametrize("size", [(60, 40), (240, 320), (90, 120), (121, 79)])
def test_a_blob_lands_where_the_resize_matrix_says(size):
    """Pixel centres are whole numbers and the image's corners coincide, as in cv2.resize."""
    height, width = 120, 160
    xy = torch.tensor([[60.3, 44.6]]).double()
    rows, columns = np.mgrid[:height, :width]
    distance = (columns - 60.3) ** 2 + (rows - 44.6) ** 2
    blob = np.exp(-distance / (2 * 8.0**2))
    shrinks = size[0] < width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(blob, size, interpolation=method)
    expected = warp_points(resize_matrix((width, height), size), xy)[0].tolist()
    assert centre_of_mass(resized) == pytest.approx(expected, abs=0.02)


def test_resize_matrices_compose_and_sizes_are_checked():
    there, back = resize_matrix((160, 120), (100, 33)), resize_matrix((100, 33), (160, 120))
    assert torch.allclose(back @ there, torch.eye(3).double())
    corners = torch.tensor([[-0.5, -0.5], [159.5, 119.5]]).double()
    moved = warp_points(there, corners)
    assert torch.allclose(moved, torch.tensor([[-0.5, -0.5], [99.5, 32.5]]).double())
    with pytest.raises(ValueError, match=r"at least 1 x 1 px, got \(0, 5\) and \(3, 3\)"):
        resize_matrix((0, 5), (3, 3))


@pytest.mark.parametrize("degrees", [40.0, 250.0])
def test_opencvs_keypoint_angles_have_this_sense(degrees):
    rows, columns = np.mgrid[:160, :160].astype(np.float32)
    # a dark and a bright half in a soft disc: its gradient points along +x
    disc = np.exp(-((columns - 80) ** 2 + (rows - 80) ** 2) / (2 * 12.0**2))
    image = 128 + 110 * disc * np.tanh((columns - 80) / 6)
    turn = rotation_about(math.radians(degrees), (80.0, 80.0))
    turned = cv2.warpAffine(image, turn[:2].numpy(), (160, 160), borderValue=128)
    point = cv2.KeyPoint(80.0, 80.0, 40.0)
    angles = []
    for view in (image, turned):
        gx, gy = cv2.Sobel(view, cv2.CV_64F, 1, 0), cv2.Sobel(view, cv2.CV_64F, 0, 1)
        x, y = int(point.pt[0]), int(point.pt[1])
        angles.append(math.atan2(gy[y, x], gx[y, x]))
    change = angle_difference(torch.tensor(angles[1]), torch.tensor(angles[0]))
    expected = angle_difference(torch.tensor(math.radians(degrees)), torch.tensor(0.0))
    assert float(change) == pytest.approx(float(expected), abs=0.02)
