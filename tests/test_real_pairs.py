"""What is right between two photos of a reconstruction, on a wall whose cameras are known."""

import numpy as np
import pytest
import torch

from rekd_hloc.types import Keypoints, Matches
from tests.test_scene_geometry import keypoints_at, some_places, through_the_wall
from tests.wall_scene import make_wall
from training.scenes.geometry import SceneGeometry
from training.scenes.pair_choice import choose_pairs
from training.scenes.real_pairs import (
    RealPairs,
    mean_quality,
    repeatability,
    sampson_distance,
)


@pytest.fixture(scope="module")
def wall(tmp_path_factory):
    folder, photos = make_wall(tmp_path_factory.mktemp("wall"))
    return SceneGeometry.read(folder / "sparse" / "0", photos)


def truth_of(wall, xy_a, xy_b, scale=1.0, pair=(0, 2)):
    pairs = RealPairs(wall, [pair])
    sides = {
        pair[0]: keypoints_at(xy_a, scale=scale),
        pair[1]: keypoints_at(xy_b, scale=scale),
    }
    return pairs, pairs.truth(pairs.lift(sides), pair)


def as_matches(index, score=None):
    index = torch.as_tensor(index)
    return Matches(index, torch.ones(len(index)) if score is None else torch.as_tensor(score))


def test_true_places_are_partners_and_right(wall):
    xy = some_places(80)
    pairs, truth = truth_of(wall, xy, through_the_wall(0, 2, xy))
    seen = torch.nonzero(truth.is_seen_in_b)[:, 0]
    assert len(seen) > 40
    assert (truth.partner[seen] == seen).float().mean() > 0.95  # places may lie side by side
    index = torch.stack([seen, seen], dim=1)
    assert truth.is_right(index).all()
    assert pairs.is_on_line((0, 2), truth.a[seen], truth.b[seen]).all()


@pytest.mark.parametrize(("error_px", "scale", "right"), [
    (2.9, 1.0, True), (3.1, 1.0, False), (3.1, 2.0, True), (8.0, 2.0, False),
])  # fmt: skip
def test_the_tolerance_grows_with_the_scale(wall, error_px, scale, right):
    xy = some_places(40)
    _, truth = truth_of(wall, xy, through_the_wall(0, 1, xy) + [error_px, 0], scale, (0, 1))
    index = torch.stack([torch.nonzero(truth.is_seen_in_b)[:, 0]] * 2, dim=1)
    assert truth.is_right(index).all() == right


def test_what_cannot_be_carried_is_neither_judged_nor_right(wall):
    pairs, truth = truth_of(wall, np.array([[1.0, 1.0]]), np.array([[1.0, 1.0]]))
    quality = pairs.measure((0, 2), truth, as_matches([[0, 0]]))
    assert not truth.is_judged(torch.tensor([[0, 0]])).any()
    assert (quality.num_matches, quality.num_right, quality.precision) == (1, 0, 0)


def test_measures_of_a_matching_with_known_errors(wall):
    xy = some_places(400)
    _, every = truth_of(wall, xy, through_the_wall(0, 2, xy))
    apart = every.partner == torch.arange(400)
    places = xy[apart.numpy()][::4][:10]
    pairs, truth = truth_of(wall, places, through_the_wall(0, 2, places))
    assert (truth.partner == torch.arange(10)).all()
    right, wrong = [[i, i] for i in range(5)], [[5, 9], [6, 8]]
    score = [0.9, 0.8, 0.7, 0.6, 0.5, 1.0, 0.1]
    quality = pairs.measure((0, 2), truth, as_matches(right + wrong, score))
    assert quality.num_right == 5
    assert quality.precision == pytest.approx(5 / 7)
    assert quality.recall == pytest.approx(0.5)
    assert quality.average_precision == pytest.approx(sum(k / (k + 1) for k in range(1, 6)) / 10)
    assert quality.num_on_line >= 5


def test_no_matches_and_no_keypoints(wall):
    pairs, truth = truth_of(wall, np.zeros((0, 2)), some_places(5))
    quality = pairs.measure((0, 2), truth, Matches.empty())
    assert mean_quality([quality]).num_right == 0
    assert mean_quality([]).precision == 0
    assert repeatability(truth, 10) == 0


def test_repeatability_counts_both_ways_and_distinct_points_once(wall):
    xy = some_places(60)
    true = through_the_wall(0, 1, xy)
    _, truth = truth_of(wall, xy, true, pair=(0, 1))
    assert repeatability(truth, 60) == pytest.approx(1, abs=0.03)
    _, moved = truth_of(wall, xy, true + 1000, pair=(0, 1))
    assert repeatability(moved, 60) == 0
    twice = np.concatenate([xy, xy + 0.5])
    _, doubled = truth_of(wall, twice, true[:30], pair=(0, 1))
    _, single = truth_of(wall, xy, true[:30], pair=(0, 1))
    assert repeatability(doubled, 200) == pytest.approx(repeatability(single, 200), abs=0.03)


def test_a_selection_seeks_partners_among_its_own(wall):
    xy = some_places(50)
    _, truth = truth_of(wall, xy, through_the_wall(0, 2, xy))
    chosen = torch.nonzero(truth.partner == torch.arange(50))[:6, 0]
    few = truth.select(chosen, chosen[3:])
    assert (few.partner[3:] == torch.arange(3)).all()
    assert len(few.a) == 6
    assert len(few.b) == 3


def test_distance_from_the_epipolar_line(wall):
    xy = some_places(50)
    of, to = wall.views[0], wall.views[2]
    true = through_the_wall(0, 2, xy)
    assert sampson_distance(of, to, xy, true).max() < 1e-6
    middle = np.array([159.5, 119.5])  # of the epipole, as the camera moves along its axis
    across = (true - middle)[:, ::-1] * [1, -1]
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    distance = sampson_distance(of, to, xy, true + 2 * across)
    assert distance == pytest.approx(np.full(50, 2 / np.sqrt(2)), rel=0.15)


def test_pairs_are_spread_over_baselines_by_the_seed(wall):
    every = choose_pairs(wall)
    assert len(every) == 10  # of five views
    some = choose_pairs(wall, max_pairs=4, seed=1)
    assert len(set(some)) == 4
    assert some == choose_pairs(wall, max_pairs=4, seed=1)
    assert RealPairs(wall, some).used_views == sorted({v for pair in some for v in pair})


def test_scores_order_keypoints_of_the_budget(wall):
    xy = some_places(40)
    keypoints = keypoints_at(xy)
    weak = Keypoints(
        keypoints.xy, keypoints.scale, keypoints.angle, torch.linspace(1, 0.1, len(keypoints))
    )
    pairs = RealPairs(wall, [(0, 1)])
    true = keypoints_at(through_the_wall(0, 1, xy)[:20])
    truth = pairs.truth(pairs.lift({0: weak, 1: true}), (0, 1))
    assert repeatability(truth, 20) > repeatability(truth, 40)
