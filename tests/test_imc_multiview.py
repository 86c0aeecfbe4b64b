import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch

from evaluation.imc import bag as one_bag
from evaluation.imc import multiview
from evaluation.imc.bag import BagResult, BagTask, open_bag_log, reconstruct_bag
from evaluation.imc.bags import NUM_BAGS, choose_bags, draw_bags
from evaluation.imc.multiview import run_multiview
from evaluation.imc.multiview_report import COLUMNS, MultiviewResult, MultiviewRun, make_tables
from evaluation.relative_pose.estimation import open_pool
from evaluation.relative_pose.matching import match_config
from evaluation.reporting.report import format_markdown
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.sfm.verification import verify
from rekd_hloc.storage.features import MatchStore
from rekd_hloc.types import Matches
from tests.imc_scene import make_imc_scene

NAMES = [f"image{number}" for number in range(12)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_imc_scene(tmp_path_factory.mktemp("imc"), num_images=6, num_points=120)


def run(made, out, matches=None, **options):
    bag_sizes, num_bags = options.pop("bag_sizes", (5, 6)), options.pop("num_bags", 2)
    bags = choose_bags(made.scene, bag_sizes, num_bags)
    return run_multiview(
        made.scene, made.features, matches or made.matches, bags, out=out, **options
    )


def change_matches(made, path, change):
    """A copy of the scene's matches, each pair's rows changed by ``change(a, b, rows)``."""
    with MatchStore(made.matches) as old, MatchStore.resume(path, {"method": "changed"}) as new:
        for a, b in old.pairs():
            index = change(a, b, old.read(a, b).index.numpy())
            rows = torch.tensor(index, dtype=torch.int64).reshape(-1, 2)
            new.write(a, b, Matches(rows, torch.ones(len(rows))), len(made.points[a]))
    return path


def bag(size=3, errors=(0.5, 0.5, 0.5), registered=3, **more):
    given = {
        "names": tuple(NAMES[:size]), "seed": 0, "errors_deg": tuple(errors),
        "num_registered": registered, "num_points": 100, "track_length": 2.5, "ate_rel": 0.01,
        "seconds": 1.0,
    }  # fmt: skip
    return BagResult(**{**given, **more})


def test_true_matches_give_a_perfect_score(made, tmp_path):
    result = run(made, tmp_path)
    five, six, mean = result.summaries()
    assert (five.size, five.num_bags, six.size, six.num_bags) == (5, 2, 6, 1)
    assert mean.maa10 > 0.97
    assert result.maa10 == mean.maa10
    assert mean.registered == mean.success == 1
    assert six.num_points == pytest.approx(120, abs=3)
    assert six.track_length == pytest.approx(6, abs=0.2)
    assert 0 < six.ate_rel < 0.01


def test_pairs_are_verified_with_colmaps_own_defaults(made, tmp_path, monkeypatch):
    given = {}

    def watch(*arguments, **options):
        given.update(options)
        return verify(*arguments, **options)

    monkeypatch.setattr(one_bag, "verify", watch)
    run(made, tmp_path)
    ransac = pycolmap.TwoViewGeometryOptions().ransac
    assert given["max_error_px"] == ransac.max_error
    assert given["max_trials"] == ransac.max_num_trials
    assert given["min_inlier_ratio"] == ransac.min_inlier_ratio


@pytest.mark.slow
def test_wrong_matches_score_lower(made, tmp_path):
    rng = np.random.default_rng(0)

    def spoil(a, b, rows):
        rows = rows.copy()
        chosen = rng.choice(len(rows), 3 * len(rows) // 4, replace=False)
        rows[chosen, 1] = rng.permutation(rows[chosen, 1])
        return rows

    matches = change_matches(made, tmp_path / "matches.h5", spoil)
    spoilt = run(made, tmp_path, matches, bag_sizes=(6,))
    assert spoilt.maa10 < run(made, tmp_path, bag_sizes=(6,)).maa10 - 0.02


def test_an_image_that_is_not_registered_fails_all_its_pairs(made, tmp_path):
    with MatchStore(made.matches) as store:
        lost = store.pairs()[0][0]
    matches = change_matches(
        made, tmp_path / "matches.h5", lambda a, b, rows: rows[:3] if lost in (a, b) else rows
    )
    result = run(made, tmp_path, matches, bag_sizes=(6,))
    (found,) = result.bags
    assert found.num_registered == 5
    for pair, error in zip(itertools.combinations(found.names, 2), found.errors_deg, strict=True):
        assert math.isinf(error) == (lost in pair)
    assert result.maa10 == pytest.approx(10 / 15, abs=0.03)
    assert result.summaries()[0].registered == pytest.approx(5 / 6)


def test_no_match_gives_no_model_and_every_pair_fails(made, tmp_path):
    matches = change_matches(made, tmp_path / "matches.h5", lambda a, b, rows: rows[:0])
    result = run(made, tmp_path, matches, bag_sizes=(5,), num_bags=1)
    (found,) = result.bags
    assert found.num_registered == found.num_points == 0
    assert found.track_length is found.ate_rel is None
    assert all(math.isinf(error) for error in found.errors_deg)
    (five, _) = result.summaries()
    assert (five.maa10, five.success, five.registered) == (0, 0, 0)
    assert math.isnan(five.track_length)


def test_errors_are_against_the_true_poses(made, tmp_path):
    """One camera's truth is rotated by 6 degrees: its pairs are off by that, the others are not."""
    rotated = sorted(made.scene.calibration)[2]
    camera = made.scene.calibration[rotated]
    angle = np.radians(6.0)
    c, s = np.cos(angle), np.sin(angle)
    spin = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    moved = dataclasses.replace(camera, R=spin @ camera.R, T=spin @ camera.T)
    scene = dataclasses.replace(made.scene, calibration={**made.scene.calibration, rotated: moved})
    changed = dataclasses.replace(made, scene=scene)
    (found,) = run(changed, tmp_path, bag_sizes=(6,)).bags
    for pair, error in zip(itertools.combinations(found.names, 2), found.errors_deg, strict=True):
        expected = 6.0 if rotated in pair else 0.0
        assert error == pytest.approx(expected, abs=1.0)


def test_finished_bags_are_not_done_again(made, tmp_path, monkeypatch):
    first = run(made, tmp_path)
    lines = (tmp_path / "multiview.jsonl").read_text().splitlines()
    assert len(lines) == 3
    # a line cut off by a kill, and one lost
    (tmp_path / "multiview.jsonl").write_text("\n".join([*lines[1:], lines[0][:50]]))
    done = []

    def count(task: BagTask) -> BagResult:
        done.append(task.names)
        return reconstruct_bag(task)

    monkeypatch.setattr(multiview, "reconstruct_bag", count)
    second = run(made, tmp_path)
    assert done == [tuple(json.loads(lines[0])["result"]["names"])]
    assert [b.errors_deg for b in second.bags] == [b.errors_deg for b in first.bags]
    run(made, tmp_path)
    assert len(done) == 1


def test_another_seed_or_other_matches_are_other_bags(made, tmp_path, monkeypatch):
    monkeypatch.setattr(multiview, "reconstruct_bag", lambda task: bag(seed=task.seed))
    options = {"bag_sizes": (6,), "num_bags": 1}
    run(made, tmp_path, **options)
    run(made, tmp_path, seed=1, **options)
    fewer = change_matches(made, tmp_path / "matches.h5", lambda a, b, rows: rows[:-1])
    run(made, tmp_path, fewer, **options)
    assert len((tmp_path / "multiview.jsonl").read_text().splitlines()) == 3


@pytest.mark.slow
def test_processes_give_the_same(made, tmp_path):
    one = run(made, tmp_path / "one")
    with open_pool(2) as pool:
        two = run(made, tmp_path / "two", jobs=2, pool=pool)
    assert [b.errors_deg for b in one.bags] == [b.errors_deg for b in two.bags]
    assert [b.num_points for b in one.bags] == [b.num_points for b in two.bags]


def test_missing_pairs_and_images_are_told(made, tmp_path):
    with MatchStore(made.matches) as old:
        pairs = old.pairs()
        with MatchStore.resume(tmp_path / "few.h5", {}) as few:
            a, b = pairs[0]
            few.write(a, b, old.read(a, b), len(made.points[a]))
    with pytest.raises(ValueError, match="match that pair first"):
        run(made, tmp_path, tmp_path / "few.h5")
    images = {**made.scene.images, "other": made.root / "other.png"}
    calibration = {**made.scene.calibration, "other": next(iter(made.scene.calibration.values()))}
    scene = dataclasses.replace(made.scene, images=images, calibration=calibration)
    with pytest.raises(ValueError, match="no image 'other'; extract it first"):
        run(dataclasses.replace(made, scene=scene), tmp_path)


def test_official_bags_are_taken_before_drawn_ones(made):
    names = sorted(made.scene.images)
    official = (tuple(names[:5]), tuple(names[1:6]), (*names[:4], "without-calibration"))
    scene = dataclasses.replace(made.scene, bags={5: official})
    bags = choose_bags(scene, (3, 5), None)
    assert [b for b in bags if len(b) == 5] == [tuple(names[:5]), tuple(names[1:6])]
    assert len([b for b in bags if len(b) == 3]) == NUM_BAGS
    assert choose_bags(scene, (5,), 1) == [tuple(names[:5])]
    assert choose_bags(scene, (3,), 4) == choose_bags(scene, (5, 3), 4)[2:]


def test_bags_grow_along_covisible_pairs():
    chain = list(itertools.pairwise(NAMES))
    bags = draw_bags(NAMES, 4, 5, np.random.default_rng(0), chain)
    assert len(bags) == len(set(bags)) == 5
    for found in bags:
        numbers = sorted(NAMES.index(name) for name in found)
        assert numbers == list(range(numbers[0], numbers[0] + 4))
    groups = [*itertools.combinations(NAMES[:6], 2), *itertools.combinations(NAMES[5:], 2)]
    for found in draw_bags(NAMES, 5, 20, np.random.default_rng(0), groups):
        assert len(set(found) & set(NAMES[:6])) in (0, 1, 5)
    islands = [(NAMES[0], NAMES[1]), (NAMES[2], NAMES[3])]
    assert draw_bags(NAMES, 3, 2, np.random.default_rng(0), islands) == []


def test_bags_are_distinct_and_of_the_asked_size():
    bags = draw_bags(NAMES, 5, 30, np.random.default_rng(0))
    assert len(set(bags)) == 30
    assert {len(set(found)) for found in bags} == {5}
    assert draw_bags(NAMES[:5], 5, 3, np.random.default_rng(0)) == [tuple(NAMES[:5])]
    assert draw_bags(NAMES[:4], 5, 3, np.random.default_rng(0)) == []
    with pytest.raises(ValueError, match="2 images"):
        draw_bags(NAMES, 1, 1, np.random.default_rng(0))


def test_figures_are_means_over_bags_then_over_sizes():
    bags = (
        bag(errors=(0.5, 0.5, 0.5)),
        bag(errors=(0.5, math.inf, math.inf), registered=2, ate_rel=None),
        bag(
            size=2, errors=(math.inf,), registered=0, num_points=0, track_length=None, ate_rel=None
        ),
    )
    two, three, mean = MultiviewResult("d/s", 0, bags).summaries()
    assert three.maa10 == pytest.approx((1 + 1 / 3) / 2)
    assert three.maa5 == pytest.approx(three.maa10)
    assert (two.maa10, two.success, three.success) == (0, 0, 1)
    assert three.registered == pytest.approx(5 / 6)
    assert three.ate_rel == pytest.approx(0.01)
    assert mean.maa10 == pytest.approx((0 + 2 / 3) / 2)
    assert mean.track_length == pytest.approx(2.5)
    assert mean.num_bags == 3
    assert math.isnan(MultiviewResult("d/s", 0, ()).maa10)


def test_table_has_a_row_for_each_method_and_size():
    result = MultiviewResult("d/s", 0, (bag(), bag(size=2, errors=(2.5,), registered=2)))
    other = dataclasses.replace(result, seed=1, bags=(bag(errors=(20, 20, 20)),))
    by = match_config(0.9)
    (table,) = make_tables({"a": MultiviewRun(by, [result, other]), "b": MultiviewRun(by, [other])})
    assert [[row[0], *row[2:4]] for row in table.rows] == [
        ["a", "2", 1], ["a", "3", 2], ["a", "mean", 3], ["b", "3", 1], ["b", "mean", 1],
    ]  # fmt: skip
    assert {row[1] for row in table.rows} == {"nn ratio 0.9"}
    assert all(len(row) == len(COLUMNS) for row in table.rows)
    assert table.rows[1][5:7] == ["0.5000", "0.0000..1.0000"]
    assert table.title == "Multiview, d/s, COLMAP on bags of images"
    assert "| a | nn ratio 0.9 | mean | 3 |" in format_markdown(table)
    assert make_tables({}) == make_tables({"a": MultiviewRun(by, [])}) == []


def test_scenes_have_tables_of_their_own_and_a_mean():
    by = match_config()
    results = [
        MultiviewResult(scene, seed, (bag(errors=(error,), size=2),))
        for scene, errors in {"d/s": (0.5, 20), "d/t": (0.5, 0.5)}.items()
        for seed, error in enumerate(errors)
    ]
    one, two, mean = make_tables({"a": MultiviewRun(by, results)})
    assert [table.rows[0][5:7] for table in (one, two, mean)] == [
        ["0.5000", "0.0000..1.0000"], ["1.0000", "1.0000..1.0000"], ["0.7500", "0.5000..1.0000"],
    ]  # fmt: skip
    assert (two.title[:14], mean.title) == ("Multiview, d/t", "Multiview, mean over 2 scenes")


def test_log_keeps_failures(tmp_path):
    result = bag(errors=(1.25, math.inf, math.nan), track_length=None, ate_rel=None)
    path = tmp_path / "new" / "bags.jsonl"
    open_bag_log(path).add("k", result)
    found = open_bag_log(path).get("k")
    assert found.errors_deg == (1.25, math.inf, math.inf)
    assert found.names == result.names
    assert "other" not in open_bag_log(path)
