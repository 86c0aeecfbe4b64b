import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rekd_hloc.config import DetectorConfig
from rekd_hloc.features.detector.detect import Detector
from rekd_hloc.features.detector.orientation import (
    angle_from_bin,
    bin_from_angle,
    find_peak,
    read_logits,
    roll_logits,
)
from rekd_hloc.geometry import angle_difference
from tests.helpers import baked_network, textured_image

orders = st.sampled_from([4, 8, 12, 36])


def von_mises(position, num_bins, sharpness=3.0):
    bins = torch.arange(num_bins, dtype=torch.float64)
    return sharpness * torch.cos(2 * math.pi / num_bins * (bins - position))


def circular_gap(a, b, period):
    gap = abs(float(a) - float(b)) % period
    return min(gap, period - gap)


@given(st.floats(-20, 20), orders)
def test_angle_to_bin_and_back(angle, num_bins):
    position = bin_from_angle(torch.tensor(angle, dtype=torch.float64), num_bins)
    assert 0 <= position < num_bins
    back = angle_from_bin(position, num_bins)
    assert 0 <= back < 2 * math.pi
    assert circular_gap(back, angle, 2 * math.pi) < 1e-9


def test_bins_grow_counter_clockwise_on_the_screen():
    # bin 9 of 36 is a quarter turn counter-clockwise: up, which is -y, the house angle 270 degrees
    assert float(angle_from_bin(torch.tensor(9.0), 36)) == pytest.approx(1.5 * math.pi)
    assert float(bin_from_angle(torch.tensor(1.5 * math.pi), 36)) == pytest.approx(9.0)
    assert float(angle_from_bin(torch.tensor(0.0), 36)) == 0.0


@given(st.floats(0, 1, exclude_max=True), orders)
def test_the_circular_peak_is_exact_for_a_von_mises_histogram(share, num_bins):
    position = share * num_bins
    got = find_peak(von_mises(position, num_bins)[None])[0]
    assert 0 <= got < num_bins
    assert circular_gap(got, position, num_bins) < 1e-6


def test_without_sub_bin_the_best_bin_is_taken():
    logits = torch.stack([von_mises(2.4, 8), von_mises(7.8, 8)])
    assert find_peak(logits, sub_bin=False).tolist() == [2.0, 0.0]


def test_a_flat_histogram_has_a_finite_peak():
    assert torch.isfinite(find_peak(torch.zeros(2, 8))).all()
    assert find_peak(torch.zeros(0, 36)).shape == (0,)


def test_reading_between_pixels_is_bilinear_and_the_levels_add_up():
    generator = torch.Generator().manual_seed(0)
    fine = torch.rand(1, 4, 6, 9, generator=generator)
    coarse = torch.rand(1, 4, 1, 1, generator=generator)
    xy = torch.tensor([[2.25, 3.5], [8.0, 5.0], [-3.0, 2.0]], dtype=torch.float64)
    got = read_logits([fine, coarse], xy, (9, 6))
    between = 0.5 * (0.75 * fine[0, :, 3, 2] + 0.25 * fine[0, :, 3, 3]) + 0.5 * (
        0.75 * fine[0, :, 4, 2] + 0.25 * fine[0, :, 4, 3]
    )
    expected = torch.stack([between, fine[0, :, 5, 8], fine[0, :, 2, 0]]) + coarse[0, :, 0, 0]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@given(orders, st.integers(-40, 40))
def test_a_turn_by_whole_bins_is_a_roll(num_bins, bins):
    logits = torch.rand(1, num_bins, 2, 3, generator=torch.Generator().manual_seed(0))
    angle = torch.tensor([-bins * 2 * math.pi / num_bins])
    expected = torch.roll(logits, bins, dims=1)
    torch.testing.assert_close(roll_logits(logits, angle), expected, atol=1e-4, rtol=0)


def test_a_turn_between_bins_moves_the_peak_by_the_angle():
    logits = von_mises(3.0, 36)[None, :, None, None]
    for angle_deg in (-17.0, 3.3, 140.0):
        angle = torch.tensor([math.radians(angle_deg)], dtype=torch.float64)
        turned = find_peak(roll_logits(logits, angle)[:, :, 0, 0])
        moved = angle_difference(
            angle_from_bin(turned, 36), angle_from_bin(torch.tensor([3.0]), 36)
        )
        assert float(moved.rad2deg()) == pytest.approx(angle_deg, abs=1e-4)


def median_change(xy, angle, xy_turned, angle_turned, expected_xy):
    """Median of the house angle's change in degrees over points found again."""
    distance, partner = torch.cdist(expected_xy, xy_turned).min(dim=1)
    again = distance < 0.5
    assert again.sum() > 20
    change = angle_difference(angle_turned[partner[again]], angle[again])
    return float(change.rad2deg().median())


def opencv_sift(image):
    keypoints = cv2.SIFT_create().detect(image, None)
    xy = torch.tensor([k.pt for k in keypoints])
    return xy, torch.tensor([math.radians(k.angle) for k in keypoints])


def test_angles_turn_with_the_image_as_opencv_s_do():
    image = textured_image(160, 160, 5)
    turned = np.ascontiguousarray(np.rot90(image))
    detector = Detector(baked_network(), DetectorConfig(levels_up=0, levels_down=1))

    def ours(pixels):
        found = detector.detect(torch.from_numpy(pixels).float() / 255)
        return found.xy, found.angle

    changes = []
    for run in (opencv_sift, ours):
        (xy, angle), (xy_turned, angle_turned) = run(image), run(turned)
        expected = torch.stack([xy[:, 1], 159 - xy[:, 0]], dim=1)
        changes.append(median_change(xy, angle, xy_turned, angle_turned, expected))
    assert changes[0] == pytest.approx(-90, abs=2)
    assert changes[1] == pytest.approx(changes[0], abs=2)
