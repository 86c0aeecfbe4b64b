import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.metrics.auc import area_under_curve
from evaluation.metrics.pose import (
    FAILED,
    accuracy,
    direction_error_deg,
    mean_average_accuracy,
    paired_difference,
    pose_error_deg,
    relative_pose,
    rotation_error_deg,
)

VECTORS = st.lists(st.floats(-3, 3), min_size=3, max_size=3).map(np.array)
ERRORS = st.lists(
    st.one_of(st.floats(0, 40), st.integers(0, 12).map(float), st.just(FAILED)), max_size=12
)


def rotation(vector):
    return cv2.Rodrigues(np.asarray(vector, dtype=np.float64))[0]


@given(VECTORS, VECTORS, VECTORS, VECTORS, VECTORS)
def test_relative_pose_moves_points_between_cameras(turn_a, turn_b, t_a, t_b, point):
    r_a, r_b = rotation(turn_a), rotation(turn_b)
    turn, shift = relative_pose(r_a, t_a, r_b, t_b)
    np.testing.assert_allclose(turn @ (r_a @ point + t_a) + shift, r_b @ point + t_b, atol=1e-9)


def test_relative_pose_by_hand():
    # camera a at the origin, camera b one to the right: what a sees straight ahead is left of b
    turn, shift = relative_pose(np.eye(3), np.zeros(3), np.eye(3), np.array([-1.0, 0, 0]))
    np.testing.assert_array_equal(turn, np.eye(3))
    np.testing.assert_array_equal(shift, [-1, 0, 0])


@given(VECTORS, st.floats(0.01, 179.9))
def test_rotation_error_is_the_angle(axis, angle_deg):
    if np.linalg.norm(axis) < 1e-3:
        return
    between = rotation(axis / np.linalg.norm(axis) * math.radians(angle_deg))
    base = rotation([0.3, -1.2, 0.7])
    assert rotation_error_deg(between @ base, base) == pytest.approx(angle_deg, abs=1e-6)
    assert rotation_error_deg(base, between @ base) == pytest.approx(angle_deg, abs=1e-6)


@pytest.mark.parametrize(
    ("estimated", "true", "expected"),
    [
        ([1, 0, 0], [2, 0, 0], 0),
        ([1, 0, 0], [-5, 0, 0], 0),
        ([1, 1, 0], [1, 0, 0], 45),
        ([-1, 1, 0], [1, 0, 0], 45),
        ([0, 0, 1], [1, 0, 0], 90),
        ([0, 0, 0], [1, 0, 0], 90),
        ([1, 0, 0], [0, 0, 0], 90),
        ([1, 1e-9, 0], [1, 0, 0], math.degrees(1e-9)),
    ],
)
def test_direction_error(estimated, true, expected):
    got = direction_error_deg(np.array(estimated, float), np.array(true, float))
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_pose_error_is_the_larger_one():
    true = rotation([0.1, 0.2, 0.3]), np.array([0.0, 0, 2])
    by_three = rotation([0, 0, math.radians(3)]) @ true[0]
    tilted = np.array([0, math.sin(math.radians(5)), math.cos(math.radians(5))])
    assert pose_error_deg((by_three, true[1]), true) == pytest.approx(3)
    assert pose_error_deg((by_three, -tilted), true) == pytest.approx(5)
    assert pose_error_deg((true[0], tilted), true) == pytest.approx(5)
    assert pose_error_deg(None, true) == FAILED
    assert pose_error_deg((true[0] * np.nan, true[1]), true) == FAILED


def test_accuracy_by_hand():
    errors = [0.2, 0.9, 1.0, 3.5, 9.99, 10.0, 10.01, 50, FAILED, 4.0]
    # below 1: two; an error of exactly 1 counts from 2 on; exactly 10 counts at 10
    assert accuracy(errors) == pytest.approx([0.2, 0.3, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.7])
    assert mean_average_accuracy(errors) == pytest.approx(0.44)


@given(ERRORS)
def test_accuracy_against_counting(errors):
    got = accuracy(errors)
    assert len(got) == 10
    if not errors:
        assert np.isnan(got).all()
        return
    for degree in range(1, 11):
        below = [e < degree or (degree == 10 and e == 10) for e in errors]
        assert got[degree - 1] == pytest.approx(sum(below) / len(errors))


def test_auc_by_hand():
    # recall goes 0 -> 1/2 on the way to 2, and stays there up to 4: (0.5 * 2 / 2 + 0.5 * 2) / 4
    assert area_under_curve([2.0, 7.0], 4.0) == pytest.approx(1.5 / 4)
    assert area_under_curve([0.0], 5.0) == 1.0
    assert area_under_curve([FAILED, 6.0], 5.0) == 0.0
    assert math.isnan(area_under_curve([], 5.0))
    with pytest.raises(ValueError, match="above 0, got 0"):
        area_under_curve([1.0], 0)


@given(ERRORS.filter(bool), st.sampled_from([5.0, 10.0, 20.0]))
def test_auc_against_a_fine_sum(errors, threshold):
    values = sorted(errors)
    below = [e for e in values if e < threshold]
    knots_x = [0.0, *below]
    knots_y = [i / len(values) for i in range(len(below) + 1)]
    x = (np.arange(20000) + 0.5) * threshold / 20000
    fine = np.interp(x, knots_x, knots_y).mean()
    assert area_under_curve(errors, threshold) == pytest.approx(fine, abs=2e-3)


@given(ERRORS.filter(bool))
def test_better_errors_never_score_less(errors):
    better = [e * 0.5 for e in errors]
    assert mean_average_accuracy(better) >= mean_average_accuracy(errors)
    assert area_under_curve(better, 10) >= area_under_curve(errors, 10) - 1e-12
    assert 0 <= area_under_curve(errors, 10) <= 1


def test_the_interval_of_a_difference_is_scipy_s():
    scipy_stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(3)
    first = rng.exponential(5, 80)
    second = np.where(rng.random(80) < 0.1, FAILED, first + rng.normal(1, 2, 80).clip(min=0))
    each = [[mean_average_accuracy([error]) for error in errors] for errors in (first, second)]
    expected = scipy_stats.bootstrap(
        each, lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis), paired=True,
        method="percentile", n_resamples=20_000, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    gain, low, high = paired_difference(first, second)
    assert gain == pytest.approx(mean_average_accuracy(first) - mean_average_accuracy(second))
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.008)
    assert low < gain < high
    back = paired_difference(second, first, num_draws=20_000)
    assert back == pytest.approx((-gain, -high, -low), abs=0.008)
    assert paired_difference(first, first) == (0, 0, 0)


def test_pairs_that_are_none():
    assert all(math.isnan(value) for value in paired_difference([], []))
    with pytest.raises(ValueError, match="2 errors against 1"):
        paired_difference([1.0, 2.0], [1.0])
