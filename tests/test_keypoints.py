import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rekd_hloc.config import DetectorConfig
from rekd_hloc.features.detector import keypoints
from rekd_hloc.features.detector.detect import Detector
from rekd_hloc.features.detector.keypoints import (
    find_duplicates,
    find_local_maxima,
    refine_positions,
)
from tests.helpers import baked_network, textured_image


def scores(height, width, seed, steps=0):
    values = torch.rand(height, width, generator=torch.Generator().manual_seed(seed))
    return (values * steps).round() / steps if steps else values


def as_set(xy):
    return {tuple(place) for place in xy.tolist()}


def maxima_by_brute_force(score, window, border):
    height, width = score.shape
    inner = torch.zeros_like(score)
    if height > 2 * border and width > 2 * border:
        rows, columns = slice(border, height - border), slice(border, width - border)
        inner[rows, columns] = score[rows, columns]
    radius = window // 2
    found = set()
    for y in range(height):
        for x in range(width):
            box = inner[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
            if inner[y, x] > 0 and inner[y, x] == box.max():
                found.add((x, y))
    return found


sizes = st.integers(1, 12)


@given(sizes, sizes, st.sampled_from([1, 3, 5, 15]), st.integers(0, 3), st.integers(0, 9))
def test_maxima_are_those_of_the_definition(height, width, window, border, seed):
    score = scores(height, width, seed, steps=9)  # rounded, so that there are plateaus
    found = find_local_maxima(score, window_px=window, border_px=border)
    assert as_set(found) == maxima_by_brute_force(score, window, border)


@given(sizes, sizes, st.sampled_from([1, 3, 5, 15]), st.integers(0, 9))
def test_a_gpu_and_a_processor_find_the_same_maximum_of_a_window(height, width, window, seed):
    score = scores(height, width, seed) - 0.5
    expected = keypoints._window_max_by_pooling(score, window)
    assert torch.equal(keypoints._window_max_by_opencv(score, window), expected)


@given(sizes, sizes, st.sampled_from([0.0, 0.2]), st.integers(0, 9))
def test_maxima_commute_with_a_quarter_turn(height, width, relief, seed):
    score = scores(height, width, seed, steps=9)

    def maxima(values):
        return find_local_maxima(values, window_px=3, border_px=1, min_prominence=relief)

    turned = as_set(maxima(torch.rot90(score, 1)))
    assert turned == {(y, width - 1 - x) for x, y in as_set(maxima(score))}


def test_strongest_first_and_above_the_threshold():
    score = scores(40, 50, 3)
    found = find_local_maxima(score, window_px=5, border_px=2, threshold=0.9)
    strength = score[found[:, 1], found[:, 0]]
    assert len(found) > 10
    assert (strength.diff() <= 0).all()
    assert strength.min() > 0.9


def test_where_valid_is_false_nothing_is_found_and_nothing_suppressed():
    score = torch.zeros(20, 20)
    score[10, 10], score[10, 12] = 2.0, 1.0
    valid = torch.ones(20, 20, dtype=torch.bool)
    valid[10, 10] = False
    found = find_local_maxima(score, window_px=7, border_px=1, valid=valid)
    assert found.tolist() == [[12, 10]]


def test_a_flat_response_has_no_keypoint_where_relief_is_asked_for():
    flat = torch.full((40, 40), 0.7)
    flat += 1e-7 * scores(40, 40, 0)
    assert len(find_local_maxima(flat, window_px=15, border_px=5, min_prominence=1e-3)) == 0
    assert len(find_local_maxima(flat, window_px=15, border_px=5)) > 0
    flat[20, 20] = 0.71
    found = find_local_maxima(flat, window_px=15, border_px=5, min_prominence=1e-3)
    assert found.tolist() == [[20, 20]]


@pytest.mark.parametrize("size", [(1, 1), (30, 100), (100, 30), (2, 3)])
def test_without_room_inside_the_border_there_is_none(size):
    found = find_local_maxima(torch.ones(*size), window_px=15, border_px=15)
    assert found.shape == (0, 2)
    xy, height = refine_positions(torch.ones(*size), found)
    assert xy.shape == (0, 2)
    assert height.shape == (0,)


def blob(x, y, sigma, stretch=1.0, angle=0.0, peak=1.0):
    rows, columns = torch.meshgrid(torch.arange(31.0), torch.arange(31.0), indexing="ij")
    u = math.cos(angle) * (columns - x) + math.sin(angle) * (rows - y)
    v = math.cos(angle) * (rows - y) - math.sin(angle) * (columns - x)
    return peak * torch.exp(-(u**2 / (2 * sigma**2) + v**2 / (2 * (stretch * sigma) ** 2)))


@pytest.mark.parametrize("peak", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize(
    ("sigma", "stretch", "angle"), [(1.2, 1.0, 0.0), (2.0, 1.0, 0.0), (2.0, 1.6, 0.6)]
)
@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (0.3, -0.2), (-0.45, 0.45), (0.1, 0.4)])
def test_the_fit_finds_the_top_of_a_blob(dx, dy, sigma, stretch, angle, peak):
    score = blob(15 + dx, 15 + dy, sigma, stretch, angle, peak)
    found = find_local_maxima(score, window_px=15, border_px=5)
    assert found.tolist() == [[15, 15]]
    xy, height = refine_positions(score, found)
    assert (xy[0] - torch.tensor([15 + dx, 15 + dy])).abs().max() < 0.1
    assert height[0] >= score.max()
    assert float(height[0]) == pytest.approx(peak, rel=0.08)


def test_the_fit_is_exact_for_a_quadratic():
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    u, v = x - 4.2, y - 3.7
    score = 50 - 2 * u**2 - 1.5 * v**2 + u * v
    xy, height = refine_positions(score, torch.tensor([[4, 4]]))
    torch.testing.assert_close(xy, torch.tensor([[4.2, 3.7]]), atol=1e-4, rtol=0)
    torch.testing.assert_close(height, torch.tensor([50.0]), atol=1e-3, rtol=0)


def test_the_fit_is_steadier_than_nine_values_under_noise(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    errors = []
    for radius in (1, keypoints.FIT_RADIUS_PX):
        monkeypatch.setattr(keypoints, "FIT_RADIUS_PX", radius)
        keypoints._quadratic_fit.cache_clear()
        offsets = []
        for _ in range(60):
            dx, dy = (torch.rand(2, generator=generator) - 0.5).tolist()
            score = blob(15 + dx, 15 + dy, 2.0) + 0.02 * torch.randn(31, 31, generator=generator)
            xy, _ = refine_positions(score, torch.tensor([[15, 15]]))
            offsets.append((xy[0] - torch.tensor([15 + dx, 15 + dy])).norm())
        errors.append(float(torch.stack(offsets).median()))
    keypoints._quadratic_fit.cache_clear()
    assert errors[1] < 0.8 * errors[0]


def test_a_plateau_a_ridge_and_the_image_s_corner_stay_on_their_pixel():
    flat = torch.ones(5, 5)
    ridge = torch.arange(5.0).expand(5, 5)
    for score, place in ((flat, [2, 2]), (ridge, [4, 2]), (flat, [0, 0]), (-flat * 0, [3, 3])):
        xy, height = refine_positions(score, torch.tensor([place]))
        assert xy.tolist() == [place]
        assert height[0] == score[place[1], place[0]]


def duplicates(xy, level, score, radius=2.5, **options):
    level = torch.tensor(level)
    return find_duplicates(
        torch.tensor(xy), level, 2 ** (level / 2), torch.tensor(score), radius_px=radius, **options
    ).tolist()


def test_the_weaker_of_two_neighbouring_levels_is_the_duplicate():
    near = [[10.0, 10.0], [12.0, 11.0]]
    assert duplicates(near, [0, 1], [1.0, 2.0]) == [True, False]
    assert duplicates(near, [0, 1], [2.0, 1.0]) == [False, True]
    assert duplicates(near, [0, 1], [1.0, 1.0]) == [False, False]
    assert duplicates(near, [0, 0], [1.0, 2.0]) == [False, False]
    assert duplicates(near, [0, 2], [1.0, 2.0]) == [False, False]


def test_the_radius_is_in_pixels_of_the_coarser_level():
    reach = 2.5 * 2**0.5
    for gap, expected in ((reach - 0.01, True), (reach + 0.01, False)):
        assert duplicates([[10.0, 10.0], [10.0 + gap, 10.0]], [0, 1], [1.0, 2.0])[0] is expected


def test_distances_are_exact_far_from_the_origin_and_in_blocks():
    """Distances by matrix products are off by more than a pixel at 4000 px in float32."""
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(300, 2, generator=generator) * 20 + 4000
    second = first + torch.tensor([3.6, 0.0])  # 2.5 px of level 1 are 3.54 px
    xy = torch.cat([first, second + torch.tensor([4000.0, 0.0])])
    level, score = [0] * 300 + [1] * 300, [1.0] * 300 + [2.0] * 300
    assert not any(duplicates(xy.tolist(), level, score))
    beside = torch.cat([first, first + torch.tensor([3.4, 0.0])])
    assert duplicates(beside.tolist(), level, score, block=7) == [True] * 300 + [False] * 300


@given(
    st.integers(1, 60),
    st.sampled_from([3.0, 20.0, 200.0]),
    st.sampled_from([0.0, -50.0, 4000.0]),
    st.sampled_from([0.8, 2.5, 30.0]),
    st.sampled_from([7, 16384]),
    st.integers(0, 99),
)
def test_duplicates_are_those_of_the_definition(count, extent, origin, radius, block, seed):
    generator = torch.Generator().manual_seed(seed)
    xy = torch.rand(count, 2, generator=generator).double() * extent + origin
    level = torch.randint(-2, 4, (count,), generator=generator)
    scale = 2 ** (level / 2) * (1 + 0.2 * torch.rand(count, generator=generator))
    score = (torch.rand(count, generator=generator) * 9).round()  # with ties
    expected = [
        any(
            abs(level[i] - level[j]) == 1
            and score[j] > score[i]
            and math.dist(xy[i].tolist(), xy[j].tolist()) < radius * max(scale[i], scale[j])
            for j in range(count)
        )
        for i in range(count)
    ]
    got = find_duplicates(xy, level, scale, score, radius_px=radius, block=block)
    assert got.tolist() == expected


def test_duplicates_do_not_depend_on_the_order():
    generator = torch.Generator().manual_seed(2)
    xy = torch.rand(200, 2, generator=generator) * 40
    level = torch.randint(-1, 3, (200,), generator=generator)
    score = torch.rand(200, generator=generator)
    order = torch.randperm(200, generator=generator)

    def run(index):
        return find_duplicates(
            xy[index], level[index], 2 ** (level[index] / 2), score[index], radius_px=2.5
        )

    plain = run(torch.arange(200))
    assert 0 < plain.sum() < 200
    assert torch.equal(run(order), plain[order])


def test_the_detector_keeps_one_point_of_a_structure():
    image = torch.from_numpy(textured_image(120, 150)).float() / 255
    counts = {}
    for radius in (0.0, 2.5):
        config = DetectorConfig(
            levels_up=1, levels_down=2, max_keypoints=10_000, duplicate_radius_px=radius
        )
        found = Detector(baked_network(), config).detect(image)
        larger = torch.maximum(found.scale[:, None], found.scale[None])
        steps = torch.log2(found.scale[:, None] / found.scale[None]).abs() * 2
        near = (torch.cdist(found.xy, found.xy) < 2.5 * larger) & (steps.round() == 1)
        counts[radius] = int(near.sum())
    assert counts[0.0] > 10
    assert counts[2.5] == 0
