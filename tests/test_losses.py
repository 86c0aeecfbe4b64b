import math

import cv2
import numpy as np
import pytest
import torch

from rekd_hloc.features.detector.orientation import bin_from_angle
from rekd_hloc.geometry import rotation_about
from tests.helpers import textured_image
from training.losses import (
    BORDER_PX,
    keypoint_loss,
    orientation_loss,
    peakiness_loss,
    similarity_loss,
    warp_maps,
)

SIDE = 96
CENTRE = ((SIDE - 1) / 2, (SIDE - 1) / 2)
IDENTITY = torch.eye(3)[None]


def turn(angle):
    return rotation_about(angle, CENTRE).float()[None]


def spots(xy, sigma=2.0):
    """A score map of one Gaussian for each point."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    total = torch.zeros(SIDE, SIDE)
    for px, py in xy:
        total += torch.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2))
    return total[None, None]


def peaked(angle, num_bins=8, sharpness=8.0):
    """Logits that say one house angle at every pixel."""
    place = bin_from_angle(torch.tensor(angle), num_bins)
    bins = torch.arange(num_bins)
    logits = sharpness * torch.cos((bins - place) * 2 * math.pi / num_bins)
    return logits[None, :, None, None].expand(1, num_bins, SIDE, SIDE)


def test_warp_maps_is_opencvs_perspective_warp():
    image = textured_image(SIDE, SIDE).astype(np.float32)
    dst_from_src = np.array([[0.9, -0.2, 12], [0.25, 1.1, -9], [3e-4, -2e-4, 1]])
    expected = cv2.warpPerspective(image, dst_from_src, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
    inverse = torch.from_numpy(np.linalg.inv(dst_from_src)).float()[None]
    got = warp_maps(torch.from_numpy(image)[None, None], inverse)[0, 0].numpy()
    inside = cv2.erode((expected > 0).astype(np.uint8), np.ones((5, 5))) > 0
    assert inside.sum() > 2000
    # OpenCV 4 rounds the places to 1/32 px
    assert np.abs(got - expected)[inside].max() < 6


def test_points_in_the_same_place_cost_less_than_points_apart():
    a = spots([(30, 30), (60, 45), (40, 70)])
    near = spots([(31, 30), (60, 46), (40, 71)])
    far = spots([(36, 34), (55, 50), (34, 64)])
    costs = [float(keypoint_loss(a, b, IDENTITY)) for b in (a, near, far)]
    assert costs[0] < costs[1] < costs[2]


@pytest.mark.parametrize("importance", ["score", "rank"])
def test_the_map_says_where_the_points_went(importance):
    quarter = turn(math.pi / 2)
    a = spots([(30, 30), (60, 45)])
    b = spots([(SIDE - 1 - 30, 30), (SIDE - 1 - 45, 60)])  # clockwise on the screen
    right = float(keypoint_loss(a, b, quarter, importance=importance))
    wrong = float(keypoint_loss(a, b, turn(-math.pi / 2), importance=importance))
    assert right < 0.7 * wrong


def test_the_two_directions_count_alike():
    a, b = spots([(30, 30), (60, 45)]), spots([(33, 30), (58, 50)])
    forward = keypoint_loss(a, b, turn(0.0))
    assert torch.allclose(forward, keypoint_loss(b, a, turn(0.0)))


def test_nothing_in_the_border_counts():
    a = spots([(48, 48)])
    b = a.clone()
    b[..., : BORDER_PX - 1, :] = 5.0
    assert torch.allclose(keypoint_loss(a, b, IDENTITY), keypoint_loss(a, a, IDENTITY))


@pytest.mark.slow
def test_descent_brings_a_point_to_its_partner():
    target = spots([(52, 44)], sigma=3)
    place = torch.tensor([46.0, 50.0], requires_grad=True)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    optimiser = torch.optim.Adam([place], lr=0.8)
    for _ in range(30):
        own = torch.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / 18)[None, None]
        loss = keypoint_loss(own, target, IDENTITY)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert math.dist(place.tolist(), (52, 44)) < 3 < math.dist((46, 50), (52, 44))


@pytest.mark.parametrize("angle", [0.0, math.pi / 4, 0.3, -1.234, 2.9])
def test_the_true_turn_costs_least_and_its_opposite_more(angle):
    a, b = peaked(0.5), peaked(0.5 + angle)
    right = float(orientation_loss(a, b, turn(angle), torch.tensor([angle])))
    histogram = b[0, :, 0, 0]
    entropy = -(histogram.softmax(0) * histogram.log_softmax(0)).sum()  # the least there can be
    assert right == pytest.approx(float(entropy), abs=1e-3)
    if angle:
        opposite = float(orientation_loss(a, b, turn(angle), torch.tensor([-angle])))
        assert opposite > right + 0.1


def test_histograms_that_know_nothing_cost_the_logarithm_of_the_bins():
    flat = torch.zeros(1, 8, SIDE, SIDE)
    cost = orientation_loss(flat, flat, IDENTITY, torch.zeros(1))
    assert float(cost) == pytest.approx(math.log(8), abs=1e-5)


def test_the_weight_says_which_pixels_count():
    a = peaked(0.0).clone()
    b = a.clone()
    b[..., :, 48:] = peaked(math.pi)[..., :, 48:]
    left = torch.zeros(1, 1, SIDE, SIDE)
    left[..., :48] = 1
    cost = [
        float(orientation_loss(a, b, IDENTITY, torch.zeros(1), weight))
        for weight in (left, None, 1 - left)
    ]
    assert cost[0] + 1 < cost[1] < cost[2] - 1


def test_similarity_is_zero_for_equal_maps_and_does_not_see_a_factor():
    a = torch.from_numpy(textured_image(SIDE, SIDE)).float()[None, None] / 255
    b = torch.from_numpy(textured_image(SIDE, SIDE, seed=1)).float()[None, None] / 255
    assert float(similarity_loss(a, 3 * a, IDENTITY)) == pytest.approx(0, abs=1e-5)
    assert float(similarity_loss(a - a.mean(), b - b.mean(), IDENTITY)) > 0.3


def test_whole_bins_lose_the_fraction_of_a_turn_towards_zero():
    step = 2 * math.pi / 8
    for angle, cut in ((1.7 * step, step), (-1.7 * step, -step), (0.6 * step, 0.0)):
        a, b = peaked(0.5), peaked(0.5 + angle)
        turned = turn(angle)
        truth, whole = torch.tensor([angle]), torch.tensor([cut])
        got = float(orientation_loss(a, b, turned, truth, whole_bins=True))
        assert got == pytest.approx(float(orientation_loss(a, b, turned, whole)), abs=1e-5)
        assert got > float(orientation_loss(a, b, turned, truth)) + 0.05


def test_scores_on_flat_ground_cost_and_their_size_does_not_matter():
    image = torch.full((1, 1, SIDE, SIDE), 0.5)
    image[..., 48:] = torch.from_numpy(textured_image(SIDE, 48)).float() / 255
    on_texture, on_flat = spots([(70, 40), (66, 60)]), spots([(26, 40), (30, 60)])
    assert float(peakiness_loss(on_texture, image)) < 0.05
    assert float(peakiness_loss(on_flat, image)) > 0.95
    both = on_texture + on_flat
    cost = float(peakiness_loss(both, image))
    assert cost == pytest.approx(0.5, abs=0.05)
    assert float(peakiness_loss(100 * both, image)) == pytest.approx(cost, abs=1e-5)
    assert float(peakiness_loss(0 * both, image)) == 0
    one = torch.cat([on_texture, on_flat]), image.expand(2, -1, -1, -1)
    assert float(peakiness_loss(*one)) == pytest.approx(0.5, abs=0.05)


def test_descent_silences_flat_ground_only():
    image = torch.full((1, 1, SIDE, SIDE), 0.5)
    image[..., 48:] = torch.from_numpy(textured_image(SIDE, 48)).float() / 255
    score = torch.ones(1, 1, SIDE, SIDE, requires_grad=True)
    (gradient,) = torch.autograd.grad(peakiness_loss(score, image), score)
    inside = gradient[0, 0, BORDER_PX:-BORDER_PX]
    assert (inside[:, BORDER_PX:40] > 0).all()
    assert (inside[:, 60 : SIDE - BORDER_PX] < 0).float().mean() > 0.9
