import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rekd_hloc.geometry import TWO_PI, angle_difference
from rekd_hloc.matching.circular import find_modes, log10_false_alarms

KERNEL = math.radians(8)
angles = st.lists(st.floats(0, TWO_PI), min_size=1, max_size=12)


def brute_density(samples, places, kernel=KERNEL):
    """Wrapped Gaussians, summed over samples and turns; the mean over the circle is 1."""
    turns = torch.arange(-3, 4).double() * TWO_PI
    gap = places[:, None, None] - samples.double()[:, None] - turns
    height = torch.exp(-0.5 * (gap / kernel) ** 2).sum(dim=(1, 2))
    return height * TWO_PI / (len(samples) * kernel * math.sqrt(TWO_PI))


@given(angles)
def test_modes_are_the_maxima_of_the_brute_force_density(values):
    samples = torch.tensor(values, dtype=torch.float64)
    modes = find_modes(samples, kernel=KERNEL)
    places = torch.arange(7200).double() * (TWO_PI / 7200)
    density = brute_density(samples, places)
    height = brute_density(samples, modes)
    assert float(height[0]) == pytest.approx(float(density.max()), rel=1e-4)
    assert float(height[0]) >= float(density.max()) * (1 - 2e-6)
    assert bool((height.diff() <= 1e-4).all()), "not highest first"
    for step in (-1e-3, 1e-3):
        assert bool((brute_density(samples, modes + step) <= height + 1e-4).all())


def test_one_sample_is_its_own_mode():
    for value in (0.0, 0.1234, math.pi, TWO_PI - 1e-9):
        modes = find_modes(torch.tensor([value], dtype=torch.float64), kernel=KERNEL)
        assert len(modes) == 1
        assert abs(float(angle_difference(modes[0], torch.tensor(value)))) < 1e-6
        assert 0 <= float(modes[0]) < TWO_PI


@given(angles, st.floats(0, TWO_PI), st.randoms(use_true_random=False))
def test_modes_turn_with_the_samples_whatever_their_order(values, turn, random):
    samples = torch.tensor(values, dtype=torch.float64)
    shuffled = list(values)
    random.shuffle(shuffled)
    turned = find_modes(torch.tensor(shuffled, dtype=torch.float64) + turn, kernel=KERNEL)
    expected = find_modes(samples, kernel=KERNEL)
    # peaks that nearly merge may appear or not; the highest one is always there
    height = brute_density(samples, turned[:1] - turn)
    assert float(height) == pytest.approx(float(brute_density(samples, expected[:1])), rel=1e-6)


def test_equally_high_modes_come_in_ascending_order():
    samples = torch.deg2rad(torch.tensor([250.0, 10.0, 130.0]))
    modes = torch.rad2deg(find_modes(samples, kernel=KERNEL))
    assert torch.allclose(modes, torch.tensor([10.0, 130.0, 250.0]).double(), atol=1e-3)


def test_samples_across_zero_make_one_mode():
    samples = torch.deg2rad(torch.tensor([356.0, 358.0, 2.0, 4.0, 100.0]))
    modes = find_modes(samples, kernel=KERNEL)
    assert abs(float(angle_difference(modes[0], torch.tensor(0.0)))) < math.radians(0.01)
    assert math.degrees(float(modes[1])) == pytest.approx(100, abs=0.01)


def test_without_samples_or_shape_there_is_no_mode():
    assert find_modes(torch.zeros(0), kernel=KERNEL).shape == (0,)
    even = torch.arange(360).double() * (TWO_PI / 360)
    assert len(find_modes(even, kernel=KERNEL)) == 0


@pytest.mark.parametrize(
    ("num_samples", "num_inside", "share"), [(5, 3, 0.1), (12, 2, 0.3), (40, 11, 0.08), (3, 3, 0.5)]
)
def test_false_alarms_are_the_binomial_tail(num_samples, num_inside, share):
    n, k = num_samples - 1, num_inside - 1
    tail = sum(math.comb(n, j) * share**j * (1 - share) ** (n - j) for j in range(k, n + 1))
    expected = math.log10(num_samples * tail)
    assert log10_false_alarms(num_samples, num_inside, share) == pytest.approx(expected, abs=1e-9)


def test_false_alarms_at_the_ends():
    assert log10_false_alarms(10, 0, 0.1) == pytest.approx(1.0)
    assert log10_false_alarms(10, 1, 0.1) == pytest.approx(1.0)
    assert log10_false_alarms(10, 4, 1.0) == pytest.approx(1.0)
    assert log10_false_alarms(10, 2, 0.0) == -math.inf
    assert log10_false_alarms(0, 0, 0.5) == -math.inf
    # far below what a float holds, and still finite
    assert -3000 < log10_false_alarms(2000, 2000, 1 / 12) < -2000


def test_the_bound_holds_for_uniform_angles():
    """In at most 5 % of the draws does some arc reach a count of 0.05 false alarms."""
    generator = torch.Generator().manual_seed(0)
    half, count, trials = math.radians(15), 30, 400
    share = 2 * half / TWO_PI
    reached = 0
    for _ in range(trials):
        samples = torch.rand(count, generator=generator).double() * TWO_PI
        inside = torch.remainder(samples[None] - samples[:, None], TWO_PI) <= 2 * half
        most = int(inside.sum(dim=1).max())
        reached += log10_false_alarms(count, most, share) < math.log10(0.05)
    assert 0 < reached <= 0.05 * trials
