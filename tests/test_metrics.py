import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.metrics import (
    match_errors,
    matching_accuracy,
    nearest_distance,
    orientation_errors,
    repeatability_rekd,
    visible_points,
)
from rekd_hloc.geometry import rotation_about, warp_points

IDENTITY = torch.eye(3, dtype=torch.float64)


def random_points(count: int, seed: int, side: float = 100.0) -> torch.Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * side


def test_repeatability_of_a_hand_worked_case():
    xy_a = torch.tensor([[10.0, 10.0], [50.0, 50.0], [90.0, 10.0], [-5.0, 0.0]])
    xy_b = torch.tensor([[12.9, 10.0], [50.0, 53.1]])
    # only the first is within 3 px; the point that left the image counts as a miss
    assert repeatability_rekd(xy_a, xy_b, IDENTITY) == pytest.approx(0.25)
    assert repeatability_rekd(xy_a, xy_b, IDENTITY, threshold_px=3.2) == pytest.approx(0.5)


def test_several_points_may_share_one_partner():
    xy_a = torch.tensor([[10.0, 10.0], [11.0, 10.0], [9.0, 10.0]])
    assert repeatability_rekd(xy_a, torch.tensor([[10.0, 10.0]]), IDENTITY) == 1.0


@settings(deadline=None, max_examples=25)
@given(count=st.integers(0, 40), seed=st.integers(0, 10_000))
def test_identity_is_perfect_and_order_does_not_matter(count, seed):
    xy = random_points(count, seed)
    shuffled = xy[torch.randperm(count, generator=torch.Generator().manual_seed(seed))]
    expected = 1.0 if count else 0.0
    assert repeatability_rekd(xy, shuffled, IDENTITY) == expected


@settings(deadline=None, max_examples=25)
@given(a=st.integers(0, 30), b=st.integers(0, 30), seed=st.integers(0, 10_000))
def test_nearest_distance_equals_brute_force(a, b, seed):
    points, others = random_points(a, seed), random_points(b, seed + 1)
    got = nearest_distance(points, others, block=7)
    for point, value in zip(points, got, strict=True):
        wanted = min((math.dist(point, other) for other in others), default=math.inf)
        assert float(value) == pytest.approx(wanted, abs=1e-3)


def test_match_errors_are_measured_in_image_b():
    b_from_a = rotation_about(0.3, (20.0, 30.0), scale=2.0)
    xy_a = random_points(5, 0)
    xy_b = warp_points(b_from_a, xy_a.double()).float() + torch.tensor([3.0, 4.0])
    index = torch.arange(5)[:, None].repeat(1, 2)
    assert torch.allclose(
        match_errors(xy_a, xy_b, index, b_from_a), torch.tensor(5.0).double(), atol=1e-3
    )


def test_a_point_at_infinity_is_an_error_and_not_a_match():
    b_from_a = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.1, 0, 0]], dtype=torch.float64)
    index = torch.zeros(1, 2, dtype=torch.int64)
    error = match_errors(torch.zeros(1, 2), torch.zeros(1, 2), index, b_from_a)
    assert torch.isinf(error).all()


def test_matching_accuracy_counts_the_threshold_itself_and_no_match_as_zero():
    thresholds = torch.tensor([1.0, 3.0])
    accuracy = matching_accuracy(torch.tensor([0.5, 1.0, 2.0, 9.0]), thresholds)
    assert accuracy.tolist() == [0.5, 0.75]
    assert matching_accuracy(torch.zeros(0), thresholds).tolist() == [0.0, 0.0]


def test_visible_points_knows_the_border():
    xy = torch.tensor([[0.0, 0.0], [99.0, 49.0], [100.0, 10.0], [5.0, 5.0]])
    assert visible_points(xy, IDENTITY, (100, 50)).tolist() == [True, True, False, True]
    assert visible_points(xy, IDENTITY, (100, 50), border_px=5).tolist() == [
        False,
        False,
        False,
        True,
    ]


def test_orientation_errors_follow_the_rotation_and_wrap():
    angle = torch.tensor([0.1, 6.2])
    turned = (angle + 0.5) % (2 * math.pi)
    xy = random_points(2, 3)
    error = orientation_errors(xy, angle, turned, rotation_about(0.5, (0.0, 0.0)))
    assert torch.allclose(error, torch.zeros(2), atol=1e-5)
    wrong = orientation_errors(xy, angle, turned, rotation_about(-0.5, (0.0, 0.0)))
    assert np.allclose(wrong.numpy(), 1.0, atol=1e-5)
