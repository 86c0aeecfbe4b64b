from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import pytest

from evaluation.extractors.extraction import Extracted
from evaluation.extractors.registry import NamedExtractor
from evaluation.imc import multiview
from evaluation.imc.bag import BagResult
from evaluation.imc.bags import BagSet
from evaluation.imc.multiview import require_both_halves, sweep_multiview
from evaluation.imc.multiview_report import MultiviewResult
from evaluation.relative_pose.estimators import RansacOptions
from evaluation.relative_pose.matching import Matched, match_config, match_label
from evaluation.relative_pose.stereo import Resources, StereoPlan
from tests.helpers import random_features
from tests.imc_scene import make_imc_scene

ALL = match_config()
RATIO = match_config(0.9)
FILTERED = match_config(1.0, "density")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return make_imc_scene(tmp_path_factory.mktemp("imc"), num_images=6, num_points=60).scene


@pytest.fixture
def bags(scene):
    return BagSet.from_scene(scene, (3, 6), 5)


@dataclass
class Work:
    """What was asked for: pairs to match, and (settings, seed, bags) to reconstruct."""

    pairs: list = field(default_factory=list)
    runs: list = field(default_factory=list)


@pytest.fixture
def work(bags, monkeypatch, tmp_path):
    """No work is done; the ratio wins on the tuning bags of ``bags`` alone."""
    asked = Work()
    tuning, _ = bags.halves()

    def run_multiview(scene, features, matches, wanted, *, seed, **_):
        ratio = matches.name == match_label(RATIO)
        asked.runs.append((matches.name, seed, list(wanted)))
        results = [
            BagResult(b, seed, (0.5 if (b in tuning) == ratio else 20.0,), 3, 9, 2.0, None, 0.1)
            for b in wanted
        ]
        return MultiviewResult(scene.key, seed, tuple(results))

    def match(self, features, pairs, settings):
        asked.pairs.append(set(pairs))
        return Matched(Path(match_label(settings)), 0, 0.0)

    monkeypatch.setattr(multiview, "run_multiview", run_multiview)
    monkeypatch.setattr(Resources, "match", match)
    monkeypatch.setattr(Resources, "extract", lambda *_: Extracted(tmp_path, 0, 0.0, {}))
    return asked


def sweep(bags, matches, tmp_path, seeds=(0, 1), **options):
    method = NamedExtractor("any", lambda _: random_features(1), {}, **options)
    plan = StereoPlan(matches, [RansacOptions("magsac", 1.0)], seeds)
    return sweep_multiview(bags, method, plan, Resources(tmp_path))


def test_bags_are_halved_within_each_size(bags):
    three = [bag for bag in bags.bags if len(bag) == 3]
    tuning, reported = bags.halves()
    assert len(three) == 5
    assert tuning == three[1::2]
    assert reported == [*three[::2], *(bag for bag in bags.bags if len(bag) == 6)]


def test_matching_is_chosen_on_one_half_and_reported_on_the_other(bags, work, tmp_path):
    run = sweep([bags], [ALL, RATIO], tmp_path)
    tuning, reported = bags.halves()
    assert run.chosen == RATIO
    assert run.tuning == {ALL: 0.0, RATIO: 1.0}
    assert work.runs == [
        (match_label(ALL), 0, tuning), (match_label(RATIO), 0, tuning),
        (match_label(RATIO), 0, reported), (match_label(RATIO), 1, reported),
    ]  # fmt: skip
    assert [result.maa10 for result in run.results] == [0, 0]
    # both halves share one file of matches
    assert work.pairs == [{pair for bag in bags.bags for pair in combinations(bag, 2)}] * 4
    record = run.to_record()
    assert record["multiview_matches"] == "nn ratio 0.9"
    assert record["multiview_tuning"]["nn"] == 0
    assert [len(result["bags"]) for result in record["multiview"]] == [len(reported)] * 2


def test_with_one_matching_all_bags_are_reported(bags, work, tmp_path):
    run = sweep([bags], [ALL], tmp_path, seeds=(4,))
    assert (run.chosen, run.tuning) == (ALL, {})
    assert work.runs == [(match_label(ALL), 4, list(bags.bags))]


def test_the_mean_over_scenes_chooses(bags, scene, work, tmp_path):
    """The second scene's tuning bags are some that the first reports: there the ratio loses."""
    _, (first, second, *_) = bags.halves()
    other = BagSet(scene, [first, first, second, second])
    assert other.halves()[0] == [first, second]
    assert sweep([bags, other], [ALL, RATIO], tmp_path).tuning == {ALL: 0.5, RATIO: 0.5}
    assert sweep([bags, other, other], [RATIO, ALL], tmp_path).chosen == ALL


def test_filters_are_left_out_without_angles(bags, work, tmp_path):
    run = sweep([bags], [FILTERED, ALL], tmp_path, has_orientation=False)
    assert run.chosen == ALL
    assert {name for name, _, _ in work.runs} == {match_label(ALL)}


def test_one_bag_of_each_size_cannot_be_halved(scene, work, tmp_path):
    lone = BagSet.from_scene(scene, (3, 6), 1)
    plan = StereoPlan([ALL, RATIO], [RansacOptions("magsac", 1.0)])
    for call in (
        lambda: require_both_halves([lone], plan), lambda: sweep([lone], [ALL, RATIO], tmp_path)
    ):  # fmt: skip
        with pytest.raises(ValueError, match="one bag of each size"):
            call()
    assert work.runs == []
    assert len(sweep([lone], [ALL], tmp_path).results) == 2
