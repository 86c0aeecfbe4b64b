import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluation.metrics.auc import area_under_curve
from evaluation.metrics.homography import (
    choose_one_to_one,
    circle_overlap,
    corner_error,
    distinct_points,
    match_errors,
    matching_accuracy,
    nearest_distance,
    repeatability_overlap,
    repeatability_rekd,
    repeatability_symmetric,
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


def test_distinct_points_of_a_hand_worked_case():
    xy = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.5, 0.0], [3.0, 4.0], [3.0, 0.0]])
    # the third is near the second, which is not distinct itself; 3 px away is far enough
    assert distinct_points(xy).tolist() == [True, False, False, True, False]
    assert distinct_points(xy[[4, 3, 0]]).tolist() == [True] * 3
    assert distinct_points(xy[:0]).tolist() == []


@given(st.integers(0, 40), st.integers(0, 100))
def test_distinct_points_equal_a_loop(count, seed):
    xy = random_points(count, seed, side=20.0)
    expected = [all(math.dist(xy[i], xy[j]) >= 3.0 for j in range(i)) for i in range(count)]
    assert distinct_points(xy.double()).tolist() == expected


@given(count=st.integers(0, 40), seed=st.integers(0, 10_000))
def test_identity_is_perfect_and_order_does_not_matter(count, seed):
    xy = random_points(count, seed)
    shuffled = xy[torch.randperm(count, generator=torch.Generator().manual_seed(seed))]
    expected = 1.0 if count else 0.0
    assert repeatability_rekd(xy, shuffled, IDENTITY) == expected


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


def test_visible_points_are_inside_the_image():
    xy = torch.tensor([[0.0, 0.0], [99.0, 49.0], [100.0, 10.0], [5.0, 5.0]])
    assert visible_points(xy, IDENTITY, (100, 50)).tolist() == [True, True, False, True]


def random_homography(seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    corners = np.float32([[0, 0], [100, 0], [100, 100], [0, 100]])
    moved = corners + rng.uniform(-20, 20, (4, 2)).astype(np.float32)
    return torch.from_numpy(cv2.getPerspectiveTransform(corners, moved))


@given(seed=st.integers(0, 10_000))
def test_repeatability_equals_brute_force_with_opencv_warping(seed):
    b_from_a = random_homography(seed)
    xy_a, xy_b = random_points(40, seed), random_points(35, seed + 1)
    warped = cv2.perspectiveTransform(xy_a.numpy()[None], b_from_a.numpy())[0]
    near = [min(math.dist(p, q) for q in xy_b.numpy()) <= 5 for p in warped]
    got = repeatability_rekd(xy_a, xy_b, b_from_a, threshold_px=5.0)
    assert got == pytest.approx(sum(near) / len(near))


def test_empty_inputs_give_zero_and_not_an_exception():
    none, one = torch.zeros(0, 2), torch.ones(1, 2)
    radius = torch.ones(1)
    for a, b in ((none, one), (one, none), (none, none)):
        assert repeatability_rekd(a, b, IDENTITY) == 0.0
        assert repeatability_symmetric(a, b, IDENTITY)[0] == 0.0
        assert repeatability_overlap(a, radius[: len(a)], b, radius[: len(b)]) == 0.0
    assert math.isnan(repeatability_symmetric(none, none, IDENTITY)[1])
    assert visible_points(none, IDENTITY, (10, 10)).shape == (0,)
    assert choose_one_to_one(*torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0)).shape == (0,)


def test_symmetric_repeatability_of_a_hand_worked_case():
    xy_a = torch.tensor([[10.0, 10.0], [50.0, 50.0]])
    xy_b = torch.tensor([[12.0, 10.0], [10.0, 11.0], [90.0, 90.0]])
    # the first of a is near two of b, both of those are near it; 1 + 2 of 5 points
    repeated, localisation = repeatability_symmetric(xy_a, xy_b, IDENTITY)
    assert repeated == pytest.approx(3 / 5)
    assert localisation == pytest.approx((1 + 2 + 1) / 3)


@given(seed=st.integers(0, 10_000))
def test_symmetric_repeatability_is_symmetric_under_a_rigid_motion(seed):
    b_from_a = rotation_about(0.7, (30.0, 20.0))
    # in double precision, so that no distance is at the threshold by rounding
    a, b = random_points(30, seed).double(), random_points(25, seed + 1).double()
    b = warp_points(b_from_a, b)
    forth = repeatability_symmetric(a, b, b_from_a, threshold_px=6.0)
    back = repeatability_symmetric(b, a, torch.linalg.inv(b_from_a), threshold_px=6.0)
    assert forth == pytest.approx(back, abs=1e-4)


def draw_overlap(radius_a: float, radius_b: float, distance: float) -> float:
    """Intersection over union counted on a grid of a twentieth of a pixel."""
    x, y = np.meshgrid(np.arange(-40, 80, 0.05), np.arange(-40, 40, 0.05))
    a = x**2 + y**2 <= radius_a**2
    b = (x - distance) ** 2 + y**2 <= radius_b**2
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize(
    ("radius_a", "radius_b", "distance"),
    [(30, 30, 0), (30, 30, 12), (30, 20, 5), (30, 20, 25), (20, 30, 40), (30, 15, 15)],
)
def test_circle_overlap_equals_counting_pixels(radius_a, radius_b, distance):
    given = (torch.tensor([float(v)]).double() for v in (radius_a, radius_b, distance))
    got = float(circle_overlap(*given)[0])
    assert got == pytest.approx(draw_overlap(radius_a, radius_b, distance), abs=2e-3)


def test_circles_apart_do_not_overlap():
    assert float(circle_overlap(*torch.tensor([[10.0], [20.0], [30.0]]).double())) == 0.0


def greedy(row: list[int], column: list[int], weight: list[float]) -> list[bool]:
    taken_rows, taken_columns, chosen = set(), set(), [False] * len(row)
    for i in sorted(range(len(row)), key=lambda i: -weight[i]):
        if row[i] not in taken_rows and column[i] not in taken_columns:
            chosen[i] = True
            taken_rows.add(row[i])
            taken_columns.add(column[i])
    return chosen


@given(
    pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 4)), max_size=25)
)
def test_one_to_one_choice_equals_taking_one_by_one(pairs):
    row, column, weight = ([pair[i] for pair in pairs] for i in range(3))
    got = choose_one_to_one(
        torch.tensor(row, dtype=torch.int64),
        torch.tensor(column, dtype=torch.int64),
        torch.tensor(weight, dtype=torch.float64),
    )
    assert got.tolist() == greedy(row, column, weight)


def test_overlap_repeatability_is_one_to_one_over_the_smaller_count():
    xy_a = torch.tensor([[10.0, 10.0], [11.0, 10.0], [200.0, 200.0]])
    xy_b = torch.tensor([[10.0, 10.0], [100.0, 100.0]])
    one = torch.ones(3)
    # both of the first two of a overlap with the first of b, which may be used once
    assert repeatability_overlap(xy_a, one, xy_b, one[:2]) == pytest.approx(0.5)
    # radii that differ by two overlap by a quarter at most
    assert repeatability_overlap(xy_a, 2 * one, xy_b, one[:2]) == 0.0
    assert repeatability_overlap(xy_a, 7 * one, xy_b, 6 * one[:2]) == pytest.approx(0.5)


def test_overlap_repeatability_knows_how_far_apart_is_too_far():
    one = torch.ones(1)
    origin = torch.zeros(1, 2)
    # two circles of 30 px have IoU 0.6 when their centres are 11.88 px apart
    assert repeatability_overlap(origin, one, torch.tensor([[11.8, 0.0]]), one) == 1.0
    assert repeatability_overlap(origin, one, torch.tensor([[12.0, 0.0]]), one) == 0.0


@given(count=st.integers(1, 30), seed=st.integers(0, 10_000))
def test_overlap_repeatability_of_the_same_points_is_perfect(count, seed):
    xy = random_points(count, seed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    radius = 1 + random_points(count, seed + 1, 5.0)[:, 0]
    assert repeatability_overlap(xy, radius, xy[order], radius[order]) == 1.0


def test_corner_error_is_the_mean_over_the_corner_pixels():
    shifted = torch.tensor([[1.0, 0, 3], [0, 1, 4], [0, 0, 1]], dtype=torch.float64)
    assert corner_error(shifted, IDENTITY, (64, 48)) == pytest.approx(5.0)
    wider = torch.diag(torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64))
    assert corner_error(wider, IDENTITY, (101, 51)) == pytest.approx(50.0)
    degenerate = torch.zeros(3, 3, dtype=torch.float64)
    assert corner_error(degenerate, IDENTITY, (64, 48)) == math.inf


@pytest.mark.parametrize("seed", range(3))
def test_corner_error_of_opencv_s_exact_fit_is_zero(seed):
    b_from_a = random_homography(seed)
    xy = random_points(20, seed)
    moved = cv2.perspectiveTransform(xy.numpy()[None], b_from_a.numpy())[0]
    estimated, _ = cv2.findHomography(xy.numpy(), moved, 0)
    assert corner_error(torch.from_numpy(estimated), b_from_a, (100, 100)) < 1e-2


def test_auc_of_hand_worked_cases():
    # no error is within 1; up to 4, recall rises to 1/2 at 2 and stays: (2 / 4 + 2 / 2) / 4
    got = [area_under_curve([2.0, 9.0], threshold) for threshold in (1.0, 4.0)]
    assert got == pytest.approx([0.0, (0.5 * 2 * 0.5 + 2 * 0.5) / 4])
    for threshold in (1.0, 4.0):
        assert area_under_curve([0.0] * 3, threshold) == 1.0
        assert area_under_curve([math.inf] * 3, threshold) == 0.0
        assert math.isnan(area_under_curve([], threshold))


@given(errors=st.lists(st.floats(0, 20), min_size=1, max_size=20))
def test_auc_equals_numeric_integration_and_grows_with_the_threshold(errors):
    thresholds = (3.0, 5.0, 10.0)
    got = [area_under_curve(errors, threshold) for threshold in thresholds]
    shuffled = [area_under_curve(errors[::-1], threshold) for threshold in thresholds]
    assert got == pytest.approx(shuffled)
    assert all(0 <= value <= 1 for value in got)
    ordered = sorted(errors)
    recall = [(i + 1) / len(errors) for i in range(len(errors))]
    for threshold, value in zip(thresholds, got, strict=True):
        inside = [e for e in ordered if e < threshold]
        x = np.linspace(0, threshold, 20_001)
        level = recall[len(inside) - 1] if inside else 0.0
        curve = np.interp(x, [0.0, *inside], [0.0, *recall[: len(inside)]], right=level)
        assert value == pytest.approx(float(np.trapezoid(curve, x)) / threshold, abs=2e-3)
