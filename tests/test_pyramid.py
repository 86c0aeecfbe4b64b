from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rekd_hloc.config import PAPER_DETECTOR, DetectorConfig
from rekd_hloc.features.detector.pyramid import (
    iterate_levels,
    level_budgets,
    select_within_budgets,
    strongest_of_each_level,
)
from tests.helpers import textured_image


def image_of(height, width):
    return torch.from_numpy(textured_image(height, width)).float()[None, None] / 255


def spot(height, width, x, y):
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None, :]
    return torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 6.0**2)).float()[None, None]


def centroid(image):
    weight = image[0, 0].double() ** 4
    y, x = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) for n in weight.shape), indexing="ij"
    )
    return torch.stack([(x * weight).sum(), (y * weight).sum()])[None] / weight.sum()


def test_sizes_scales_and_order_of_the_levels():
    config = DetectorConfig(levels_up=2, levels_down=2)
    levels = list(iterate_levels(image_of(100, 141), config))
    assert [level.number for level in levels] == [-2, -1, 0, 1, 2]
    assert [tuple(level.image.shape[2:]) for level in levels] == [
        (200, 282),
        (141, 199),
        (100, 141),
        (71, 100),
        (50, 70),
    ]
    assert [level.scale for level in levels] == pytest.approx([0.5, 0.5**0.5, 1, 2**0.5, 2])


def test_the_image_s_own_size_is_the_image():
    image = image_of(40, 50)
    level = next(level for level in iterate_levels(image, DetectorConfig()) if level.number == 0)
    assert torch.equal(level.image, image)
    xy = torch.tensor([[3.0, 7.0]])
    assert torch.equal(level.to_image(xy), xy)


def test_places_map_back_to_the_image():
    place = torch.tensor([[61.3, 44.6]])
    for level in iterate_levels(spot(97, 128, 61.3, 44.6), DetectorConfig()):
        torch.testing.assert_close(
            level.to_image(centroid(level.image)).float(), place, atol=0.02, rtol=0
        )


def test_reduced_levels_do_not_alias():
    checks = (torch.arange(200)[:, None] + torch.arange(200)[None, :]) % 2
    for level in iterate_levels(checks.float()[None, None], DetectorConfig(levels_up=0)):
        if level.number > 1:
            assert (level.image - 0.5).abs().max() < 0.1


def test_values_stay_within_black_and_white():
    hard = (torch.rand(1, 1, 50, 50, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    for level in iterate_levels(hard, DetectorConfig(border_px=3)):
        assert level.image.min() >= 0
        assert level.image.max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (29, 40), (1, 2)])
def test_levels_without_room_inside_the_border_are_left_out(size):
    config = DetectorConfig(border_px=15, levels_up=0)
    image = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0))
    assert list(iterate_levels(image, config)) == []


def test_a_small_image_is_seen_enlarged():
    config = DetectorConfig(border_px=15)
    assert [level.number for level in iterate_levels(image_of(20, 25), config)] == [-2]


def test_budgets_are_the_paper_s():
    assert list(level_budgets(PAPER_DETECTOR).values()) == [753, 377, 189, 95, 48, 24, 12, 6]


def keypoints_of_levels(counts, seed=0):
    level = torch.cat([torch.full((n,), number) for number, n in counts.items()])
    order = torch.randperm(len(level), generator=torch.Generator().manual_seed(seed))
    score = torch.rand(len(level), generator=torch.Generator().manual_seed(seed + 1))
    return level[order], score


def counts_of(level, chosen):
    return {int(n): int((level[chosen] == n).sum()) for n in level.unique()}


def test_what_a_level_lacks_goes_to_the_next_coarser_one():
    config = DetectorConfig(max_keypoints=100, levels_up=0, levels_down=2, fill_budget=False)
    assert level_budgets(config) == {0: 58, 1: 29, 2: 15}
    level, score = keypoints_of_levels({0: 50, 1: 100, 2: 100})
    chosen = select_within_budgets(level, score, config)
    # level 0 lacks 8: level 1 may give 37, level 2 its 15; 102 in all, the 2 weakest go
    assert len(chosen) == 100
    counts = counts_of(level, chosen)
    assert counts[0] <= 50
    assert 35 <= counts[1] <= 37
    assert 13 <= counts[2] <= 15


def test_each_level_gives_its_strongest_and_the_result_is_sorted():
    config = DetectorConfig(max_keypoints=60, levels_up=0, levels_down=1)
    level, score = keypoints_of_levels({0: 200, 1: 200})
    chosen = select_within_budgets(level, score, config)
    assert (score[chosen].diff() <= 0).all()
    for number in (0, 1):
        mine = score[chosen][level[chosen] == number]
        every = score[level == number].sort(descending=True).values
        torch.testing.assert_close(mine, every[: len(mine)])


def test_places_left_free_go_to_the_strongest_left_over_or_stay_free():
    config = DetectorConfig(max_keypoints=100, levels_up=0, levels_down=2)
    level, score = keypoints_of_levels({0: 300, 1: 10, 2: 3})
    chosen = select_within_budgets(level, score, config)
    assert counts_of(level, chosen) == {0: 87, 1: 10, 2: 3}
    kept = select_within_budgets(level, score, replace(config, fill_budget=False))
    assert counts_of(level, kept) == {0: 58, 1: 10, 2: 3}


@given(st.lists(st.integers(0, 40), min_size=4, max_size=4), st.integers(1, 60), st.booleans())
def test_never_more_than_asked_and_never_one_twice(counts, wanted, fill):
    config = DetectorConfig(max_keypoints=wanted, levels_up=1, levels_down=2, fill_budget=fill)
    level, score = keypoints_of_levels(dict(zip(range(-1, 3), counts, strict=True)))
    chosen = select_within_budgets(level, score, config)
    assert len(chosen.unique()) == len(chosen) <= wanted
    if fill:
        assert len(chosen) == min(sum(counts), wanted)


def test_strongest_of_each_level():
    level = torch.tensor([0, 1, 0, 0, 1])
    score = torch.tensor([0.1, 0.9, 0.5, 0.3, 0.2])
    assert strongest_of_each_level(level, score, 1).tolist() == [1, 2]
    assert strongest_of_each_level(level, score, 2).tolist() == [1, 2, 3, 4]
