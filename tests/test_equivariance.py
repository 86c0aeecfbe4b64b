import math

import numpy as np
import pytest
import torch

from rekd_hloc.config import DetectorConfig, NetworkConfig
from rekd_hloc.features.detector.detect import Detector
from rekd_hloc.geometry import angle_difference
from tests.helpers import assert_equivariant, baked_network, textured_image

ORDERS = [4, 8, 36]
SIZES = [(41, 41), (44, 44), (36, 53)]  # odd, even, oblong


def config_of(order):
    return NetworkConfig(group_order=order, pixel_range=51.0, orientation_blur_px=1.0)


def image_of(height, width, seed=1):
    return torch.from_numpy(textured_image(height, width, seed)).float()[None, None] / 255


def turn(maps):
    """A quarter turn counter-clockwise on the screen."""
    return torch.rot90(maps, 1, (2, 3))


def score_map(network):
    return lambda image: network(image)[0]


def histogram(network):
    return lambda image: network(image)[1].softmax(dim=1)


def waves(angle, side, seed=0, shortest_px=8.0):
    """A sum of plane waves, turned about the centre by a house angle exactly: nothing is resampled.

    Returns (1, 1, side, side) in 0..1.
    """
    rng = np.random.default_rng(seed)
    reach = (side - 1) / 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    x, y = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    total = np.zeros((side, side))
    for _ in range(24):
        direction, phase = rng.uniform(0, 2 * math.pi, 2)
        frequency = 2 * math.pi / rng.uniform(shortest_px, 30)
        total += np.cos(frequency * (x * math.cos(direction) + y * math.sin(direction)) + phase)
    return torch.from_numpy(0.5 + total / 24).float()[None, None]


def relative_error(got, expected):
    return float((got - expected).norm() / expected.norm())


class TestAssertEquivariant:
    def test_passes_for_what_is_equivariant(self):
        assert_equivariant(lambda x: x * x, image_of(9, 9), turn, turn, 1e-6)

    def test_fails_for_what_prefers_a_direction(self):
        def slope(x):
            return x - torch.roll(x, 1, dims=3)

        with pytest.raises(AssertionError, match="not equivariant"):
            assert_equivariant(slope, image_of(9, 9), turn, turn, 1e-4)

    def test_fails_for_a_shape_that_does_not_turn(self):
        with pytest.raises(AssertionError, match="shape"):
            assert_equivariant(lambda x: x[..., :5, :], image_of(9, 9), turn, turn, 1e-4)

    def test_fails_for_a_constant(self):
        with pytest.raises(AssertionError, match="nothing is tested"):
            assert_equivariant(torch.ones_like, image_of(9, 9), turn, turn, 1e-4)

    def test_fails_for_what_does_not_change_under_the_action(self):
        def ring(x):
            return sum(torch.rot90(x, k, (2, 3)) for k in range(4))

        with pytest.raises(AssertionError, match="acting changes"):
            assert_equivariant(ring, image_of(9, 9), turn, turn, 1e-4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("order", ORDERS)
def test_a_quarter_turn_of_the_image_turns_the_score_map(order, size):
    network = baked_network(config_of(order))
    assert_equivariant(score_map(network), image_of(*size), turn, turn, 1e-4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("order", ORDERS)
def test_a_quarter_turn_of_the_image_turns_and_rolls_the_histogram(order, size):
    network = baked_network(config_of(order))

    def act(maps):
        return torch.roll(turn(maps), order // 4, dims=1)

    assert_equivariant(histogram(network), image_of(*size), turn, act, 1e-4)


def errors_of_small_turns(maps, order, side, reach, every=1):
    """Relative errors in the image's centre for turns of the group below a right angle.

    Gives (score, histogram, histogram with a roll that is one bin short) for each.
    """
    middle = slice(side // 2 - reach, side // 2 + reach + 1)
    centre = (..., middle, middle)
    plain_score, plain_bins = maps(waves(0.0, side))
    for bins in range(1, order // 4, every):
        angle_deg = bins * 360 / order
        score, got = maps(waves(-math.radians(angle_deg), side))  # counter-clockwise on the screen
        expected = torch.roll(resample(plain_bins, angle_deg), bins, dims=1)[centre]
        short = torch.roll(expected, -1, dims=1)
        yield (
            relative_error(score[centre], resample(plain_score, angle_deg)[centre]),
            relative_error(got[centre], expected),
            relative_error(got[centre], short),
        )


@pytest.mark.parametrize("order", [8, 36])
def test_the_backbone_follows_small_turns_up_to_its_discretisation(order):
    """A 5x5 kernel on the grid is off by .04 (score) and .07 (logits) at waves of 8 px and up."""
    backbone = baked_network(config_of(order)).backbone

    def maps(image):
        return backbone((image - 0.5) * 8)

    errors = list(errors_of_small_turns(maps, order, side=61, reach=16))
    assert len(errors) == order // 4 - 1
    for score, logits, one_bin_short in errors:
        assert score < 0.05
        assert logits < 0.09
        assert one_bin_short > 0.3


@pytest.mark.parametrize("order", [8, 36])
def test_the_whole_network_follows_small_turns(order):
    """The square box of the contrast normalisation is what is off most, at 40 to 50 degrees."""
    network = baked_network(config_of(order))
    network.norm_window_px = 33  # the centre of a small image shall see no border

    def maps(image):
        score, logits = network(image)
        return score, logits.softmax(dim=1)

    errors = errors_of_small_turns(maps, order, side=97, reach=11, every=3)  # 10, 40, 70 degrees
    for score, histogram, one_bin_short in errors:
        assert score < 0.25
        assert histogram < 0.33
        assert one_bin_short > 1.5 * histogram


def resample(maps, angle_deg):
    """Maps turned counter-clockwise about their centre, read bicubically."""
    angle = math.radians(angle_deg)
    turn_back = [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]]
    grid = torch.nn.functional.affine_grid(
        torch.tensor([turn_back]), list(maps.shape), align_corners=True
    )
    return torch.nn.functional.grid_sample(maps, grid, mode="bicubic", align_corners=True)


@pytest.mark.parametrize("size", [(120, 120), (121, 150)])
def test_keypoints_turn_with_the_image(size):
    config = DetectorConfig(levels_up=1, levels_down=2, max_keypoints=200)
    detector = Detector(baked_network(), config)
    image = image_of(*size)[0, 0]
    plain = detector.detect(image)
    turned = detector.detect(torch.rot90(image, 1))
    assert len(plain) == len(turned) > 30
    # counter-clockwise: the right edge becomes the top one
    x, y = plain.xy.T
    expected_xy = torch.stack([y, size[1] - 1 - x], dim=1)
    exactly = "donot_use_mm_for_euclid_dist"
    distance, partner = torch.cdist(expected_xy, turned.xy, compute_mode=exactly).min(dim=1)
    assert distance.max() < 2e-3
    assert len(partner.unique()) == len(plain)
    torch.testing.assert_close(turned.scale[partner], plain.scale)
    torch.testing.assert_close(turned.score[partner], plain.score, atol=1e-3, rtol=1e-3)
    off = angle_difference(turned.angle[partner], plain.angle - math.pi / 2)
    assert off.abs().max() < 0.01
    assert plain.angle.std() > 0.5
