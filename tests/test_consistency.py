import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rekd_hloc.geometry import TWO_PI, rotation_about, warp_points
from rekd_hloc.matching.consistency import filter_by_orientation, filter_paper
from rekd_hloc.matching.nearest import match_nearest
from rekd_hloc.matching.rotations import match_rotations, rotation_modes
from rekd_hloc.types import Matches
from tests.helpers import data_dir

FILTERS = [filter_paper, filter_by_orientation]


def identity_matches(count):
    index = torch.arange(count)
    return Matches(torch.stack([index, index], dim=1), torch.linspace(1, 0, count))


def of_rotations(degrees):
    """Matches whose rotations are these."""
    angle_b = torch.deg2rad(torch.as_tensor(degrees, dtype=torch.float64)).float()
    return identity_matches(len(angle_b)), torch.zeros(len(angle_b)), angle_b


def kept(matches):
    return matches.index[:, 0].tolist()


def spread(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, generator=generator) * 360).tolist()


def mixture(num_right, num_wrong, rotation_deg, *, deviation_deg=5.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    right = rotation_deg + deviation_deg * torch.randn(num_right, generator=generator)
    return [*right.tolist(), *spread(num_wrong, seed + 1)]


# ---------------------------------------------------------------- both filters


@pytest.mark.parametrize("keep", FILTERS)
def test_rotation_is_b_minus_a(keep):
    pairs = [[2, 0], [0, 1], [1, 2], [4, 4], [3, 3]]
    matches = Matches(torch.tensor(pairs), torch.ones(5))
    angle_a = torch.tensor([0.5, 6.0, 1.0, 3.0, 0.0])
    angle_b = torch.tensor([2.0, 1.5, 7.0 - TWO_PI, 6.0, 1.0])
    rotations = match_rotations(matches, angle_a, angle_b)
    assert torch.allclose(rotations, torch.tensor([1.0, 1, 1, 1, 3]).double(), atol=1e-6)
    assert keep(matches, angle_a, angle_b).index.tolist() == pairs[:4]


@pytest.mark.parametrize("keep", FILTERS)
def test_no_match_stays_no_match(keep):
    assert len(keep(Matches.empty(), torch.zeros(4), torch.zeros(0))) == 0


@pytest.mark.parametrize("keep", FILTERS)
def test_a_band_across_zero_and_its_ends(keep):
    rotations = [0.0] * 9 + [330.0, 30.0, 329.9, 30.1, 180.0]
    matches, angle_a, angle_b = of_rotations(rotations)
    assert kept(keep(matches, angle_a, angle_b)) == list(range(11))


@pytest.mark.parametrize("keep", FILTERS)
@pytest.mark.parametrize("step_deg", [10, 45])
def test_float32_bins_at_the_ends_of_the_band_stay(keep, step_deg):
    """Angles of whole bins are exactly the tolerance apart; float32 must not decide."""
    bins = torch.arange(360 // step_deg)
    angle_a = torch.deg2rad(bins * float(step_deg)).repeat_interleave(9)
    shift = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1, -1]).repeat(len(bins))
    turned = (bins.repeat_interleave(9) * step_deg + 70 + shift * step_deg) % 360
    angle_b = torch.deg2rad(turned.float())
    matches = identity_matches(len(angle_a))
    assert len(keep(matches, angle_a, angle_b, tolerance_deg=float(step_deg))) == len(matches)
    below = keep(matches, angle_a, angle_b, tolerance_deg=step_deg - 0.1)
    assert len(below) == len(matches) * 7 // 9


@pytest.mark.parametrize("keep", FILTERS)
def test_half_a_turn_of_tolerance_keeps_all(keep):
    matches, angle_a, angle_b = of_rotations(mixture(20, 20, 77))
    assert len(keep(matches, angle_a, angle_b, tolerance_deg=180.0)) == 40


@pytest.mark.parametrize("keep", FILTERS)
@given(
    rotations=st.lists(st.integers(0, 359), min_size=1, max_size=12),
    at_a=st.floats(0, 6.28),
    random=st.randoms(use_true_random=False),
)
def test_a_common_turn_and_the_order_change_nothing(keep, rotations, at_a, random):
    matches, angle_a, angle_b = of_rotations(rotations)
    expected = kept(keep(matches, angle_a, angle_b, tolerance_deg=30.25))
    turned = keep(
        matches, (angle_a + at_a) % TWO_PI, (angle_b + at_a) % TWO_PI, tolerance_deg=30.25
    )
    assert kept(turned) == expected
    order = list(range(len(rotations)))
    random.shuffle(order)
    shuffled = keep(matches[torch.tensor(order)], angle_a, angle_b, tolerance_deg=30.25)
    assert kept(shuffled) == [number for number in order if number in expected]


@pytest.mark.parametrize("keep", FILTERS)
@given(num_right=st.integers(6, 12), turn=st.integers(0, 359), seed=st.integers(0, 99))
def test_a_turn_of_one_image_turns_the_rotation_only(keep, num_right, turn, seed):
    rotations = [100.0] * num_right + spread(5, seed)
    matches, angle_a, angle_b = of_rotations(rotations)
    expected = kept(keep(matches, angle_a, angle_b, tolerance_deg=31.7))
    turned = (angle_b + math.radians(turn)) % TWO_PI
    assert kept(keep(matches, angle_a, turned, tolerance_deg=31.7)) == expected
    assert set(range(num_right)) <= set(expected)


@pytest.mark.parametrize("keep", FILTERS)
def test_inputs_stay_as_they_are_and_the_result_keeps_scores(keep):
    matches, angle_a, angle_b = of_rotations(mixture(30, 10, 200))
    before = matches.index.clone(), matches.score.clone(), angle_a.clone(), angle_b.clone()
    result = keep(matches, angle_a, angle_b)
    after = matches.index, matches.score, angle_a, angle_b
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert torch.equal(result.score, matches.score[result.index[:, 0]])


@pytest.mark.parametrize("keep", FILTERS)
@pytest.mark.parametrize(
    ("angle_a", "angle_b", "options", "words"),
    [
        (torch.zeros(3), torch.zeros(3), {"tolerance_deg": 0.0}, r"tolerance_deg.*\(0, 180\].*0"),
        (torch.zeros(3), torch.zeros(3), {"tolerance_deg": 181.0}, "tolerance_deg.*181"),
        (torch.zeros(2), torch.zeros(3), {}, "angle_a has 2 values.*keypoint 2"),
        (torch.zeros(3), torch.tensor([0, math.nan, 0]), {}, "angle_b holds nan.*filter=none"),
    ],
)
def test_mistakes_are_named(keep, angle_a, angle_b, options, words):
    with pytest.raises(ValueError, match=words):
        keep(identity_matches(3), angle_a, angle_b, **options)


# ---------------------------------------------------------------- the paper's


def test_paper_takes_the_most_common_degree_however_weak():
    matches, angle_a, angle_b = of_rotations([10.0, 100.2, 99.9, 250.0])
    assert kept(filter_paper(matches, angle_a, angle_b)) == [1, 2]


def test_paper_ties_go_to_the_fuller_band_then_to_the_smaller_degree():
    matches, angle_a, angle_b = of_rotations([200.0, 200.0, 50.0, 50.0, 60.0])
    assert kept(filter_paper(matches, angle_a, angle_b)) == [2, 3, 4]
    matches, angle_a, angle_b = of_rotations([200.0, 50.0])
    assert kept(filter_paper(matches, angle_a, angle_b)) == [1]


def test_paper_counts_both_sides_of_zero_as_one_degree():
    matches, angle_a, angle_b = of_rotations([359.7, 0.3, 100.0, 101.0])
    assert kept(filter_paper(matches, angle_a, angle_b)) == [0, 1]


# ---------------------------------------------------------------- this project's


def test_the_rotation_of_few_right_matches_is_found():
    rotations = mixture(40, 360, 250)
    matches, angle_a, angle_b = of_rotations(rotations)
    (mode,) = rotation_modes(matches, angle_a, angle_b)
    assert math.degrees(mode.angle) == pytest.approx(250, abs=4)
    assert mode.log10_false_alarms < -3
    assert 40 <= mode.num_matches < 100
    result = set(kept(filter_by_orientation(matches, angle_a, angle_b)))
    assert set(range(40)) <= result
    assert len(result) < 40 + 360 * 60 / 360 * 1.5


def test_nothing_is_removed_if_nothing_stands_out():
    for seed in range(8):
        matches, angle_a, angle_b = of_rotations(spread(100, seed))
        assert rotation_modes(matches, angle_a, angle_b) == []
        assert len(filter_by_orientation(matches, angle_a, angle_b)) == 100


def test_few_matches_are_no_evidence():
    for rotations in ([40.0], [40.0, 41.0], [40.0, 41.0, 200.0, 300.0]):
        matches, angle_a, angle_b = of_rotations(rotations)
        assert len(filter_by_orientation(matches, angle_a, angle_b)) == len(rotations)
    matches, angle_a, angle_b = of_rotations([40.0, 41.0, 39.0, 42.0, 200.0])
    assert kept(filter_by_orientation(matches, angle_a, angle_b)) == [0, 1, 2, 3]


def test_upright_keypoints_all_agree():
    matches, angle_a, angle_b = of_rotations([0.0] * 50)
    assert len(filter_by_orientation(matches, angle_a, angle_b)) == 50


def test_several_modes():
    rotations = mixture(60, 0, 40) + mixture(30, 0, 150, seed=5) + spread(60, 9)
    matches, angle_a, angle_b = of_rotations(rotations)
    modes = rotation_modes(matches, angle_a, angle_b, max_modes=5)
    assert [round(math.degrees(mode.angle), -1) for mode in modes] == [40, 150]
    assert modes[0].log10_false_alarms < modes[1].log10_false_alarms < math.log10(0.05)
    one = set(kept(filter_by_orientation(matches, angle_a, angle_b)))
    two = set(kept(filter_by_orientation(matches, angle_a, angle_b, max_modes=2)))
    assert set(range(60)) <= one
    assert not one & set(range(60, 90))
    assert set(range(90)) <= two


def test_the_slope_of_one_mode_is_no_second_one():
    rotations = mixture(500, 50, 90, deviation_deg=14.0)
    matches, angle_a, angle_b = of_rotations(rotations)
    modes = rotation_modes(matches, angle_a, angle_b, tolerance_deg=10.0, max_modes=4)
    assert len(modes) == 1


def test_weak_modes_are_there_on_request():
    matches, angle_a, angle_b = of_rotations([10.0, 130.0, 250.0])
    assert rotation_modes(matches, angle_a, angle_b) == []
    weak = rotation_modes(
        matches, angle_a, angle_b, max_modes=9, max_false_alarms=math.inf, tolerance_deg=30.0
    )
    assert [round(math.degrees(mode.angle)) for mode in weak] == [10, 130, 250]
    assert [mode.num_matches for mode in weak] == [1, 1, 1]


def test_scale_consistency():
    rotations = mixture(40, 0, 80) + mixture(10, 0, 80, seed=3) + spread(30, 4)
    matches, angle_a, angle_b = of_rotations(rotations)
    scale_a = torch.linspace(1, 8, len(rotations))
    factor = torch.ones(len(rotations))
    factor[:40] = 1.5 * 2 ** torch.linspace(-0.3, 0.3, 40)
    factor[40:50] = 6.0
    result = filter_by_orientation(
        matches,
        angle_a,
        angle_b,
        scale_a=scale_a,
        scale_b=scale_a * factor,
        scale_tolerance=2.0,
    )
    assert set(range(40)) <= set(kept(result))
    assert not set(range(40, 50)) & set(kept(result))
    without = filter_by_orientation(matches, angle_a, angle_b)
    assert set(range(50)) <= set(kept(without))


def test_each_mode_has_its_own_scale():
    rotations = [20.0] * 20 + [200.0] * 15 + [20.0, 200.0]
    matches, angle_a, angle_b = of_rotations(rotations)
    scale_b = torch.tensor([2.0] * 20 + [0.25] * 15 + [0.25, 2.0])
    options = {"scale_a": torch.ones(37), "scale_b": scale_b, "scale_tolerance": 1.5}
    result = filter_by_orientation(matches, angle_a, angle_b, max_modes=2, **options)
    assert kept(result) == list(range(35))


def test_scale_levels_at_the_tolerance_stay():
    """Levels of a pyramid differ by sqrt 2 exactly; float32 must not decide."""
    matches, angle_a, angle_b = of_rotations([0.0] * 14)
    scale_a = torch.full((14,), 2.0**0.5)
    scale_b = torch.tensor([1.0] * 10 + [2.0**0.5, 2.0**-0.5, 2.0, 0.5])
    result = filter_by_orientation(
        matches, angle_a, angle_b, scale_a=scale_a, scale_b=scale_b, scale_tolerance=2.0**0.5
    )
    assert kept(result) == list(range(12))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale_tolerance": 2.0}, "scale_a and scale_b"),
        ({"scale_tolerance": 0.5}, "scale_tolerance must be 0 or above 1, got 0.5"),
        ({"max_modes": 0}, "max_modes must be at least 1, got 0"),
        (
            {"scale_tolerance": 2.0, "scale_a": torch.ones(6), "scale_b": torch.zeros(6)},
            "scale_b must be positive, got 0",
        ),
    ],
)
def test_mistakes_in_options_are_named(options, words):
    matches, angle_a, angle_b = of_rotations([10.0] * 6)
    with pytest.raises(ValueError, match=words):
        filter_by_orientation(matches, angle_a, angle_b, **options)


def test_false_alarms_must_be_positive():
    with pytest.raises(ValueError, match="max_false_alarms must be above 0"):
        rotation_modes(*of_rotations([1.0]), max_false_alarms=0.0)


@pytest.mark.data
def test_a_turned_photo_keeps_its_right_matches():
    """OpenCV's SIFT has the house's sense of angles, so it can judge the whole chain."""
    folder = data_dir("train/bsds500_train")
    path = sorted(folder.rglob("*.jpg"))[0]
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    height, width = image.shape
    b_from_a = rotation_about(math.radians(70), ((width - 1) / 2, (height - 1) / 2))
    turned = cv2.warpAffine(image, b_from_a[:2].numpy(), (width, height))
    sift = cv2.SIFT_create(nfeatures=600)
    xy, angle, descriptors = [], [], []
    for view in (image, turned):
        points, codes = sift.detectAndCompute(view, None)
        xy.append(torch.tensor(np.array([point.pt for point in points])))
        angle.append(torch.deg2rad(torch.tensor([point.angle for point in points])))
        descriptors.append(torch.nn.functional.normalize(torch.from_numpy(codes), dim=1))
    matches = match_nearest(*descriptors)
    (mode,) = rotation_modes(matches, *angle)
    assert math.degrees(mode.angle) == pytest.approx(70, abs=2)
    for keep in FILTERS:
        result = keep(matches, *angle)
        i, j = result.index.T
        error = (warp_points(b_from_a, xy[0][i]) - xy[1][j]).norm(dim=1)
        i, j = matches.index.T
        before = (warp_points(b_from_a, xy[0][i]) - xy[1][j]).norm(dim=1)
        assert int((error < 3).sum()) >= 0.98 * int((before < 3).sum())
        assert int((error >= 3).sum()) < 0.5 * int((before >= 3).sum())
