"""Tests of evaluation.oriented_ransac.study and its trials, on small synthetic data."""

import json
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from helpers import textured_image

from evaluation.imc.dataset import read_scene
from evaluation.oriented_ransac.consensus_loop import Estimate, Improvement
from evaluation.oriented_ransac.planes import PlanePair, homography_trial, study_planes
from evaluation.oriented_ransac.samplers import SAMPLERS
from evaluation.oriented_ransac.scenes import EXACT, Noise, make_scene
from evaluation.oriented_ransac.study import StudyOptions, load_pairs, main, study_images
from evaluation.oriented_ransac.trials import (
    PosedPair,
    TrialLog,
    adaptive_trial,
    feature_metrics,
    models_within,
    pose_trial,
    synthetic_trial,
)


def posed_pair(share=0.6, noise=None, seed=0):
    scene = make_scene(np.random.default_rng(seed), 200, share, noise=noise or Noise())
    pose = (scene.rotation, scene.translation)
    return PosedPair(f"pair{seed}", scene.correspondences, scene.K, scene.K, pose)


def planar_pair(share=0.6):
    scene = make_scene(np.random.default_rng(1), 200, share, noise=Noise(), is_planar=True)
    return PlanePair("plane", scene.correspondences, scene.homography, (1000, 1000))


def test_a_budget_gives_the_last_model_within_it():
    history = tuple(Improvement(np.full((3, 3), t), t, 1) for t in (0.1, 0.2, 0.4))
    estimate = Estimate(history, np.ones(0, bool), 3, 0.5, 0.0)
    none, second = models_within(estimate, (0.05, 0.3))
    assert none is None
    assert second is history[1].model


@pytest.mark.parametrize("kind", list(SAMPLERS))
def test_synthetic_models_are_found(kind):
    metrics = synthetic_trial(kind, "oriented", 0.7, 0, (1e-9, 0.2), num_matches=200)
    assert metrics["found"] == [False, True]
    assert metrics["num_samples"] > 16


@pytest.mark.parametrize("kind", ["fundamental", "essential"])
def test_poses_of_exact_matches_are_exact(kind):
    pair = posed_pair(1.0, EXACT)
    metrics = pose_trial(pair, kind, "points", 0, (1e-9, 0.1), 1.0)
    assert metrics["errors_deg"][0] == math.inf
    assert metrics["errors_deg"][1] < 1e-4
    usual = adaptive_trial(pair, kind, "points", 0, 1.0, 1.0)
    assert usual["error_deg"] < 1e-4
    assert usual["num_samples"] < metrics["num_samples"]


def test_figures_of_features_come_from_the_true_pose():
    metrics = feature_metrics(posed_pair(0.6, EXACT), 1.0)
    assert metrics["num_matches"] == 200
    assert 0.6 <= metrics["right"] < 0.65
    assert metrics["signs_of_right"] > 0.98
    assert metrics["signs_of_wrong"] < 0.8


def test_planes_are_scored_by_their_corners():
    pair = planar_pair()
    assert 0.55 < pair.right < 0.65
    metrics = homography_trial(pair, "oriented", 0, (1e-9, 0.1))
    assert metrics["errors_px"][0] == math.inf
    assert metrics["errors_px"][1] < 5


def test_finished_trials_are_not_run_again(tmp_path):
    log = TrialLog(tmp_path / "log.jsonl")
    assert log.get("a", lambda: {"x": math.inf}) == {"x": math.inf}
    with log.path.open("a") as file:
        file.write('["half", {"x"')
    again = TrialLog(tmp_path / "log.jsonl")
    assert again.get("a", lambda: pytest.fail("run again")) == {"x": math.inf}
    assert again.get("half", lambda: {"x": 2}) == {"x": 2}


def test_other_matches_are_other_trials():
    pairs = [posed_pair(0.6), replace(posed_pair(0.5), name="pair0")]
    pairs.append(replace(pairs[0], K_a=2 * pairs[0].K_a))
    assert len({pair.key for pair in pairs}) == 3
    assert posed_pair(0.6).key == pairs[0].key
    planes = [planar_pair(), planar_pair(0.5)]
    planes.append(replace(planes[0], b_from_a=2 * planes[0].b_from_a))
    assert len({pair.key for pair in planes}) == 3


def test_a_log_of_other_matches_is_not_taken(tmp_path):
    options = StudyOptions(budgets=(0.01,), num_scenes=1)
    log = TrialLog(tmp_path / "log.jsonl")
    study_images(log, {"scene": [posed_pair(0.9)]}, "test", options)
    other = {"scene": [replace(posed_pair(0.3), name="pair0")]}
    facts, _ = study_images(log, other, "test", options)
    assert facts.rows[0][1] < 50


@pytest.mark.slow
def test_tables_hold_every_sampling(tmp_path):
    log = TrialLog(tmp_path / "log.jsonl")
    options = StudyOptions(budgets=(0.01, 0.03), num_scenes=1)
    scenes = {"one": [posed_pair(seed=0)], "two": [posed_pair(seed=1)]}
    facts, table = study_images(log, scenes, "test", options)
    assert len(facts.rows) == 1
    assert table.title == "one + two, test: mAA(10) in % of 2 pairs"
    kinds = ("fundamental", "essential")
    assert [row[0] for row in table.rows] == [f"{k} {s}" for k in kinds for s in SAMPLERS[k]]
    assert all(len(row) == len(table.columns) for row in table.rows)
    gains = [row[table.columns.index("over points, 0.01 s (95 %)")] for row in table.rows]
    assert [gain is None for gain in gains] == [" points" in str(row[0]) for row in table.rows]
    maa = {row[0]: row[3] for row in table.rows}
    for row, gain in zip(table.rows, gains, strict=True):
        if gain is not None:
            difference = maa[row[0]] - maa[f"{row[0].split()[0]} points"]
            assert float(gain.split()[0]) == pytest.approx(difference, abs=0.06)
    alone, _ = study_images(log, {"two": scenes["two"]}, "test", options)
    assert alone.rows[0][0] == 200.0
    assert log.known.keys() == TrialLog(log.path).known.keys()
    planes = study_planes(log, [planar_pair()], "planes", [0], options.budgets)
    assert [row[0] for row in planes.rows] == list(SAMPLERS["homography"])
    assert planes.rows[0][3] == 100.0


def test_the_program_writes_its_report_and_goes_on(tmp_path, capsys):
    arguments = ["--out", str(tmp_path), "--num-scenes", "1", "--budgets", "0.002"]
    assert main(arguments) == 0
    first = (tmp_path / "table.md").read_text()
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["protocol"] == "oriented"
    assert "synthetic essential" in capsys.readouterr().out
    assert main(arguments) == 0
    assert (tmp_path / "table.md").read_text() == first


def test_pairs_are_read_from_a_scene(tmp_path):
    part = tmp_path / "data" / "phototourism" / "wall" / "set_100"
    (part / "images").mkdir(parents=True)
    (part / "calibration").mkdir()
    image = textured_image(240, 320)
    for name, shift in (("one", 0), ("two", 8)):
        cv2.imwrite(str(part / "images" / f"{name}.jpg"), image[:, shift : shift + 300])
        _write_camera(part / "calibration" / f"calibration_{name}.h5", shift)
    scene = read_scene(part.parent)
    options = StudyOptions(num_keypoints=200)
    (pair,) = load_pairs(scene, "rootsift", 0.9, tmp_path / "cache", options)
    assert pair.name == "two-one"
    assert len(pair.c) > 50
    moved = pair.c.xy_b - pair.c.xy_a
    assert np.median(moved[:, 0]) == pytest.approx(8, abs=0.3)
    assert np.allclose(pair.pose[1], [0.08, 0, 0])


def test_wrong_options_are_named(tmp_path, caplog):
    with pytest.raises(ValueError, match="budgets"):
        StudyOptions(budgets=(0.2, 0.1))
    with pytest.raises(ValueError, match="max_pairs"):
        StudyOptions(max_pairs=0)
    nowhere = ["--out", str(tmp_path), "--skip-synthetic", "--data", str(tmp_path / "none")]
    assert main(nowhere) == 2
    assert "no data folder" in caplog.text
    assert main(["--out", str(tmp_path), "--skip-synthetic"]) == 2
    assert "nothing to measure" in caplog.text


def _write_camera(path, shift):
    import h5py

    with h5py.File(path, "w") as file:
        file["K"] = np.array([[300.0, 0, 150], [0, 300, 120], [0, 0, 1]])
        file["R"] = np.eye(3)
        file["T"] = np.array([-0.01 * shift, 0, 0])
