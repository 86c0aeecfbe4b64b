"""Ways to choose keypoints, their study, and the training of a ranking, on a wall."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from rekd_hloc.config import DetectorConfig
from rekd_hloc.features.ranking import likenesses, load_ranking
from tests.helpers import ROOT
from tests.test_extractor import plain
from tests.test_ranking import random_ranking, some_candidates
from tests.wall_scene import SIZE, VIEWS, make_wall
from training import selection_study, train_ranking
from training.ranking_run import pairwise_loss
from training.scenes.real_pairs import RealPairs
from training.selection import candidates as candidates_module
from training.selection.candidates import CandidateCache, CandidateConfig
from training.selection.choices import (
    CHOICES,
    by_discs,
    by_level_shares,
    by_ranking,
    by_score,
    level_of,
    without_level_above,
)
from training.selection.ranking_samples import RankedImage, count_right
from training.selection.summary import mean_over_scenes

BUDGET = DetectorConfig(max_keypoints=15)


@pytest.fixture(scope="module")
def wall(tmp_path_factory):
    folder, photos = make_wall(tmp_path_factory.mktemp("wall"))
    return folder / "sparse" / "0", photos


@pytest.fixture
def small_preset(monkeypatch):
    config = replace(plain(), detector=replace(plain().detector, border_px=5, nms_window_px=5))
    monkeypatch.setattr(candidates_module, "get_preset", lambda _: config)


def levelled(count=40):
    """Candidates on the levels -1, 0 and 1, and their detector's options."""
    found = some_candidates(count)
    scale = 2.0 ** (0.5 * (torch.arange(count) % 3 - 1))
    return replace(found, keypoints=replace(found.keypoints, scale=scale))


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_fills_the_budget_with_different_keypoints(name):
    for count in (0, 1, 10, 40):
        chosen = CHOICES[name](levelled(count), BUDGET)
        assert len(chosen.unique()) == len(chosen)
        assert len(chosen) <= min(15, count)
        if name != "no-level-above":
            assert len(chosen) == min(15, count)


def test_levels_are_read_from_scales():
    assert level_of(levelled(3).keypoints, BUDGET).tolist() == [-1, 0, 1]
    chosen = without_level_above(levelled(), BUDGET)
    assert (levelled().keypoints.scale[chosen] >= 1).all()


def test_shares_of_levels_are_kept():
    found = levelled(60)
    chosen = by_level_shares({-1: 1.0, 0: 3.0, 1: 1.0})(found, BUDGET)
    level = level_of(found.keypoints, BUDGET)[chosen]
    assert [(level == number).sum().item() for number in (-1, 0, 1)] == [3, 9, 3]


def test_discs_keep_keypoints_apart():
    found = levelled()
    apart, strongest = (choose(found, BUDGET) for choose in (by_discs, CHOICES["score-alone"]))

    def nearest(chosen):
        xy = found.keypoints.xy[chosen]
        return (torch.cdist(xy, xy) + 1e9 * torch.eye(len(xy))).min()

    assert nearest(apart) > 2 * nearest(strongest)


def test_the_nearest_other_descriptor():
    found = some_candidates(5)
    rows = torch.eye(128)[[0, 0, 1, 2, 3]]
    found = replace(found, descriptors=rows)
    assert likenesses(found)[0].tolist() == [1, 1, 0, 0, 0]
    few = replace(BUDGET, max_keypoints=2)
    assert sorted(CHOICES["alike"](found, few).tolist()) == [0, 1]
    assert not {0, 1} & set(CHOICES["distinct"](found, few).tolist())


def test_a_ranking_chooses_among_its_pool():
    found, ranking = levelled(), random_ranking(looks_at="detection")
    pool = by_score(found, replace(BUDGET, max_keypoints=30))
    chosen = by_ranking(ranking, 2.0)(found, BUDGET)
    assert set(chosen.tolist()) <= set(pool.tolist())
    assert len(chosen) == 15
    assert set(chosen.tolist()) != set(by_score(found, BUDGET).tolist())


def test_candidates_are_extracted_once(wall, small_preset, tmp_path, monkeypatch):
    config = CandidateConfig(max_candidates=60)
    photo = wall[1] / "v0.png"
    first = CandidateCache(tmp_path, config).read(photo)
    monkeypatch.setattr(CandidateCache, "_extract", None)
    again = CandidateCache(tmp_path, config).read(photo)
    assert len(first) == len(again) > 20
    assert torch.equal(first.keypoints.second_angle, again.keypoints.second_angle)
    torch.testing.assert_close(first.descriptors, again.descriptors, atol=1e-3, rtol=0)
    other = tmp_path / "other.png"
    shutil.copy(wall[1] / "v1.png", other)
    with pytest.raises(TypeError):  # another photo is not there
        CandidateCache(tmp_path, config).read(other)


def study_arguments(wall, tmp_path, **more):
    options = {
        "scenes.models": f"[{wall[0]}]",
        "scenes.images": f"[{wall[1]}]",
        "scenes.max_pairs": 2,
        "candidates.max_candidates": 80,
        "budget": 30,
        "cache": tmp_path / "cache",
        "output": tmp_path / "study",
        **more,
    }
    return ["--quiet", *(f"{key}={value}" for key, value in options.items())]


@pytest.mark.slow
def test_a_study_is_measured_stored_and_gone_on_with(wall, small_preset, tmp_path, monkeypatch):
    arguments = study_arguments(
        wall, tmp_path, **{"training.models": f"[{wall[0]}]", "training.images": f"[{wall[1]}]"}
    )
    only = "only=[score,level-shares,second-angle,upright]"
    assert selection_study.main([*arguments, only]) == 0
    lines = (tmp_path / "study" / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "score", "level-shares", "second-angle", "upright",
    ]  # fmt: skip
    scores = json.loads((tmp_path / "study" / "scores.json").read_text())
    assert len(scores["score mutual"]) == 2
    assert sum(score["num_right"] for score in scores["score mutual"]) > 5
    monkeypatch.setattr(selection_study, "score_pair", None)
    assert selection_study.main([*arguments, only]) == 0


def test_another_model_of_the_photos_is_measured_anew(wall, small_preset, tmp_path, monkeypatch):
    shutil.copytree(wall[0], tmp_path / "model")
    score, asked = selection_study.score_pair, []

    def counted(*arguments, **options):
        asked.append(arguments[1])
        return score(*arguments, **options)

    monkeypatch.setattr(selection_study, "score_pair", counted)
    arguments = study_arguments((tmp_path / "model", wall[1]), tmp_path)
    numbers = []
    for _ in range(3):
        assert selection_study.main([*arguments, "only=[score]"]) == 0
        numbers.append(len(asked))
        if len(numbers) == 2:
            with (tmp_path / "model" / "points3D.txt").open("a") as file:
                file.write("# another\n")
    assert numbers[0] > 0
    assert numbers[1:] == [numbers[0], 2 * numbers[0]]


def test_an_unknown_choice_is_named(wall, small_preset, tmp_path, caplog):
    assert selection_study.main([*study_arguments(wall, tmp_path), "only=[best]"]) == 2
    assert "no choice 'best'; choices are score" in caplog.text


def test_models_and_photos_come_in_pairs(capsys, caplog):
    assert selection_study.main(["scenes.models=[a]"]) == 2
    assert "models and images must be as many, got 1 and 0" in caplog.text


def test_means_count_every_scene_once():
    assert mean_over_scenes(["a", "a", "a", "b"], [1, 1, 1, 3]) == 2


def training_arguments(wall, tmp_path, output, **more):
    shutil.copytree(wall[1], tmp_path / "held", dirs_exist_ok=True)
    options = {
        "scenes.models": f"[{wall[0]}]",
        "scenes.images": f"[{wall[1]}]",
        "validation.models": f"[{wall[0]}]",
        "validation.images": f"[{tmp_path / 'held'}]",
        "candidates.max_candidates": 80,
        "looks_at": "descriptor",
        "cache": tmp_path / "cache",
        "output": tmp_path / output,
        "steps": 60,
        "validate_every": 20,
        "keypoints_per_image": 64,
        **more,
    }
    return ["--quiet", *(f"{key}={value}" for key, value in options.items())]


@pytest.mark.slow
def test_a_ranking_learns_and_a_resumed_run_is_the_same(wall, small_preset, tmp_path, monkeypatch):
    assert train_ranking.main(training_arguments(wall, tmp_path, "whole")) == 0
    log = [json.loads(x) for x in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [20, 40, 60]
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[-1]["kept"] > log[-1]["kept_by_score"]
    assert load_ranking(str(tmp_path / "whole" / "ranking.safetensors")).looks_at == "descriptor"

    def stop(run, batches, validate, handler, *, quiet):
        for _ in range(33):
            run.advance(next(batches))
            if run.step % 20 == 0:
                validate()
        run.save()
        raise KeyboardInterrupt

    arguments = training_arguments(wall, tmp_path, "parts")
    with monkeypatch.context() as patch:
        patch.setattr(train_ranking, "run_steps", stop)
        assert train_ranking.main(arguments) == 130
    assert train_ranking.main(arguments) == 0
    whole, parts = (tmp_path / name / "ranking.safetensors" for name in ("whole", "parts"))
    a, b = (load_ranking(str(path)).network.state_dict() for path in (whole, parts))
    assert all(torch.equal(a[key], b[key]) for key in a)
    # what it has learned is taught to one that needs no description
    taught = {"teacher": tmp_path / "whole" / "ranking.safetensors", "looks_at": "detection"}
    assert train_ranking.main(training_arguments(wall, tmp_path, "taught", **taught)) == 0
    assert load_ranking(str(tmp_path / "taught" / "ranking.safetensors")).descriptor_weights == ""


def test_candidates_without_a_plane_count_by_their_epipolar_line(wall):
    """Twenty keypoints on the wall, and eight beside it that are matched: four on their lines."""
    geometry = RealPairs.read(*wall).geometry
    pairs = RealPairs(geometry, [(0, 2)])  # of the same axis; the second is nearer and rolled
    centre = torch.tensor(SIZE) / 2 - 0.5
    beside = torch.tensor([[x, y] for x in (-140.0, 140.0) for y in (-90.0, -30.0, 30.0, 90.0)])
    turn = torch.tensor([VIEWS[2][0]] * 4 + [VIEWS[2][0] + 0.4] * 4)
    turned = torch.stack(
        [
            turn.cos() * beside[:, 0] - turn.sin() * beside[:, 1],
            turn.sin() * beside[:, 0] + turn.cos() * beside[:, 1],
        ],
        dim=1,
    )
    chosen = {}
    for view, off_wall in ((0, beside), (2, 0.95 * turned)):  # farther away than the wall
        on_wall = torch.from_numpy(geometry.views[view].xy[:20]).float()
        xy = torch.cat([on_wall, off_wall + centre])
        found = replace(some_candidates(28, seed=view), descriptors=torch.eye(28, 128))
        keypoints = replace(found.keypoints, xy=xy, scale=torch.ones(28))
        chosen[view] = replace(found, keypoints=keypoints)
    lifted = pairs.lift({view: c.keypoints for view, c in chosen.items()})
    assert lifted[0].is_lifted[:20].sum() > 5
    assert not lifted[0].is_lifted[20:].any()
    for seen, right in count_right(pairs, chosen).values():
        assert seen[:20].sum() > 5
        assert (seen[20:] > 0).all()
        assert torch.equal(right[:24], seen[:24])
        assert not right[24:].any()


def test_a_training_without_scenes_says_what_to_name(tmp_path, caplog, small_preset):
    assert train_ranking.main([f"output={tmp_path}", f"cache={tmp_path}"]) == 2
    assert "scenes give no photo with a right match" in caplog.text


def test_the_pairwise_loss_orders_what_differs():
    target = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    right, wrong = torch.tensor([[2.0, -2.0, -2.0, 2.0]]), torch.tensor([[-2.0, 2.0, 2.0, -2.0]])
    assert pairwise_loss(right, target) < 0.1 < pairwise_loss(wrong, target)
    assert pairwise_loss(wrong, torch.full((1, 4), 0.5)) == 0


def test_the_share_of_right_matches_that_a_value_keeps():
    right = torch.tensor([3.0, 0.0, 1.0, 0.0])
    image = RankedImage(torch.zeros(4, 1), torch.ones(4), right, torch.tensor([1.0, 2, 3, 4]))
    assert image.kept_share(right, 0.5) == 1
    assert image.kept_share(image.score, 0.5) == 0.25


def test_configurations_load():
    from rekd_hloc.config import load_config
    from training.ranking_run import TrainRankingConfig

    for path in sorted((ROOT / "configs").glob("train_ranking*.yaml")):
        load_config(TrainRankingConfig(), path)
