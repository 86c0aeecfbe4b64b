import json
import shutil
import sys
from dataclasses import replace

import cv2
import h5py
import numpy as np
import pytest
import torch

from evaluation.extractors.extraction import extract_images
from evaluation.extractors.registry import load_extractor
from evaluation.imc import __main__ as imc
from evaluation.imc.dataset import Camera, list_scenes, read_scene
from evaluation.imc.multiview_report import MultiviewRun
from evaluation.imc.rotation import rotate_camera, rotate_scene
from evaluation.imc.submission_arrays import pair_key
from evaluation.metrics.pose import FAILED, pose_error_deg, rotation_error_deg
from evaluation.relative_pose import estimation
from evaluation.relative_pose.correspondences import Correspondences
from evaluation.relative_pose.dataset import PosePair, all_pairs
from evaluation.relative_pose.estimation import (
    PairResult,
    estimate_pairs,
    measure_pair,
    open_pair_log,
    open_pool,
)
from evaluation.relative_pose.estimators import RansacOptions
from evaluation.relative_pose.matching import match_config, match_label, match_pairs
from evaluation.relative_pose.options import read_plan
from evaluation.relative_pose.stereo import Resources, StereoPlan, run_stereo
from evaluation.rotated_images import canvas_from_image
from rekd_hloc.matching.match import match
from rekd_hloc.storage.features import FeatureStore, MatchStore
from tests.helpers import random_features
from tests.imc_photos import make_layout

RANSAC = RansacOptions("magsac", 1.0, max_iterations=5000)
MATCH = match_config(0.9)


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    return make_layout(tmp_path_factory.mktemp("imc") / "data")


@pytest.fixture(scope="module")
def scene(part):
    return read_scene(part.parent)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def method():
    return load_extractor("sift", 800)


def plan(**options):
    return StereoPlan(**{"matches": [MATCH], "ransacs": [RANSAC], "seeds": (0,), **options})


def worst_median(run):
    return np.median([r.error_deg for r in run.scenes[0].by_seed[0]])


def test_true_poses_are_found(scene, method, cache):
    pairs = scene.pair_set()
    run = run_stereo([pairs], method, plan(), Resources(cache))
    assert len(run.scenes[0].by_seed[0]) == 9
    assert worst_median(run) < 1.5


def _inverted(camera):
    return Camera(camera.K, camera.R.T, -camera.R.T @ camera.T)


def _mirrored(camera):
    return Camera(camera.K * [[1, 1, -1], [1, 1, 1], [1, 1, 1]], camera.R, camera.T)


def _rolled(camera):
    return rotate_camera(camera, (360, 270), 90.0)


@pytest.mark.parametrize("spoil", [_inverted, _mirrored, _rolled])
def test_a_wrong_convention_shows(scene, method, cache, spoil):
    name = sorted(scene.calibration)[0]
    wrong = {**scene.calibration, name: spoil(scene.calibration[name])}
    pairs = replace(scene, calibration=wrong).pair_set()
    own = replace(pairs, pairs=[pair for pair in pairs.pairs if name in pair.names])
    run = run_stereo([own], method, plan(), Resources(cache))
    assert worst_median(run) > 10


@pytest.mark.slow
def test_sweep_is_chosen_on_one_half_and_reported_on_the_other(scene, method, cache):
    pairs = scene.pair_set(0.0)
    coarse = replace(RANSAC, threshold_px=30.0)
    several = plan(ransacs=[coarse, RANSAC], seeds=(0, 1))
    run = run_stereo([pairs], method, several, Resources(cache))
    assert run.chosen.ransac == RANSAC
    (one,) = run.scenes
    assert set(one.by_seed) == {0, 1}
    expected = [p.names for p in pairs.pairs if not p.is_for_tuning]
    assert [(r.a, r.b) for r in one.reported_results(1)] == expected
    assert 0 < len(expected) < len(pairs.pairs)
    with pytest.raises(ValueError, match="too few to choose a setting"):
        run_stereo([pairs.limit(1)], method, several, Resources(cache))


def test_split_ignores_the_order_of_a_pair_and_is_even():
    eye, zero = np.eye(3), np.ones(3)
    names = [(f"image{i}", f"image{j}") for i in range(40) for j in range(i)]
    one = [PosePair(a, b, eye, eye, eye, zero).is_for_tuning for a, b in names]
    other = [PosePair(b, a, eye, eye, eye, zero).is_for_tuning for a, b in names]
    assert one == other
    assert 0.4 < np.mean(one) < 0.6


@pytest.mark.slow
def test_nothing_is_done_twice(scene, method, tmp_path, monkeypatch):
    pairs = scene.pair_set()
    half = pairs.limit(4)
    first = run_stereo([half], method, plan(), Resources(tmp_path))
    assert first.scenes[0].features.num_extracted == len(half.used_images())
    whole = run_stereo([pairs], method, plan(), Resources(tmp_path))
    assert whole.scenes[0].features.path == first.scenes[0].features.path
    monkeypatch.setattr(estimation, "estimate_pose", None)
    monkeypatch.setattr("rekd_hloc.matching.match.match_nearest", None)
    again = run_stereo([pairs], method, plan(), Resources(tmp_path))
    assert again.scenes[0].by_seed == whole.scenes[0].by_seed
    assert again.scenes[0].features.num_extracted == 0
    known = {(r.a, r.b): r for r in again.scenes[0].by_seed[0]}
    assert all(known[r.a, r.b] == r for r in first.scenes[0].by_seed[0])


@pytest.mark.slow
def test_processes_change_nothing(scene, method, cache, tmp_path):
    pairs = scene.pair_set()
    alone = run_stereo([pairs], method, plan(), Resources(cache))
    found = alone.scenes[0]
    with open_pool(2) as pool:
        together = estimate_pairs(
            pairs.pairs, found.features.path, found.matched[MATCH].path, RANSAC, 0,
            tmp_path, pool=pool,
        )  # fmt: skip
    strip = [replace(result, seconds=0.0) for result in together]
    assert strip == [replace(result, seconds=0.0) for result in found.by_seed[0]]


def test_a_cut_line_is_done_again(tmp_path):
    path = tmp_path / "log.jsonl"
    log = open_pair_log(path)
    good = PairResult("a", "b", 1.0, 2.0, 30, 20, 0.1)
    failed = PairResult("a", "c", FAILED, FAILED, 3, 0, 0.1)
    log.add("one", good)
    log.add("two", failed)
    text = path.read_text()
    path.write_text(text[:-20])
    log = open_pair_log(path)
    assert "one" in log
    assert "two" not in log
    log.add("two", failed)
    log = open_pair_log(path)
    assert log.get("one") == good
    assert log.get("two") == failed
    assert log.get("two").error_deg == FAILED


def test_a_changed_pose_is_estimated_again(scene):
    pair = scene.pair_set().pairs[0]
    assert pair.digest() == replace(pair, rotation=pair.rotation.copy()).digest()
    assert pair.digest() != replace(pair, translation=-pair.translation).digest()
    assert pair.digest() != replace(pair, K_a=pair.K_a + 1e-3).digest()


def test_without_matches_a_pair_fails(scene):
    pair = scene.pair_set().pairs[0]
    result = measure_pair(pair, Correspondences(*np.zeros((4, 0, 2))), RANSAC, 0)
    assert result.error_deg == FAILED
    assert (result.num_matches, result.num_inliers) == (0, 0)


@pytest.mark.parametrize("angle_deg", [0.0, 90.0, 37.0, 200.0])
def test_rotated_camera_sees_rotated_pixels(scene, angle_deg):
    camera = next(iter(scene.calibration.values()))
    skewed = replace(camera, K=camera.K + [[0, 0, 0], [0, 40, 0], [0, 0, 0]])
    canvas, _ = canvas_from_image((360, 270), angle_deg)
    rotated = rotate_camera(skewed, (360, 270), angle_deg)
    points = np.random.default_rng(0).uniform(0, 1, (20, 3))
    before = (points @ skewed.R.T + skewed.T) @ skewed.K.T @ canvas.T
    after = (points @ rotated.R.T + rotated.T) @ rotated.K.T
    np.testing.assert_allclose(after[:, :2] / after[:, 2:], before[:, :2] / before[:, 2:])
    np.testing.assert_allclose(after[:, 2], before[:, 2])
    assert rotation_error_deg(rotated.R, camera.R) == pytest.approx(min(angle_deg, 360 - angle_deg))
    np.testing.assert_allclose(rotated.pose.centre, camera.pose.centre)


@pytest.mark.slow
def test_rotated_scene_gives_true_poses(scene, method, tmp_path):
    rotated, masks = rotate_scene(scene, 5, tmp_path / "rotated")
    changed = [name for name in scene.images if rotated.images[name] != scene.images[name]]
    assert changed == sorted(scene.images)[1::2] == sorted(masks)
    pairs = rotated.pair_set(masks=masks)
    run = run_stereo([pairs], method, plan(), Resources(tmp_path))
    assert worst_median(run) < 1.5
    unrotated = replace(rotated, calibration=scene.calibration)
    wrong = run_stereo([unrotated.pair_set(masks=masks)], method, plan(), Resources(tmp_path))
    assert worst_median(wrong) > 5
    stamp = {path: path.stat().st_mtime_ns for path in rotated.images.values()}
    rotate_scene(scene, 5, tmp_path / "rotated")
    assert stamp == {path: path.stat().st_mtime_ns for path in rotated.images.values()}


def test_rotated_images_follow_their_source(scene, tmp_path):
    name = sorted(scene.images)[1]
    source = tmp_path / "source.png"
    shutil.copy(scene.images[name], source)
    moved = replace(scene, images={**scene.images, name: source})
    before = rotate_scene(moved, 5, tmp_path / "rotated")[0].images[name].read_bytes()
    shutil.copy(scene.images[sorted(scene.images)[2]], source)
    after = rotate_scene(moved, 5, tmp_path / "rotated")[0].images[name].read_bytes()
    assert after != before


@pytest.mark.slow
def test_features_are_known_by_the_bytes_of_images(scene, tmp_path):
    method = load_extractor("sift", 50)
    copies = {}
    for name, path in scene.images.items():
        copies[name] = tmp_path / "copy" / path.name
        copies[name].parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copies[name])
    first = extract_images(scene.images, method, tmp_path)
    assert first.num_extracted == len(scene.images)
    again = extract_images(copies, method, tmp_path)
    assert (again.path, again.num_extracted) == (first.path, 0)
    one, other = sorted(copies)[:2]
    shutil.copyfile(copies[other], copies[one])
    changed = extract_images(copies, method, tmp_path)
    assert changed.path != first.path
    assert changed.num_extracted == len(copies)
    swapped = {**scene.images, one: scene.images[other], other: scene.images[one]}
    assert extract_images(swapped, method, tmp_path).path not in (first.path, changed.path)
    mask = tmp_path / "mask.png"
    with_mask = []
    for value in (255, 0):
        height, width = cv2.imread(str(scene.images[one]), cv2.IMREAD_GRAYSCALE).shape
        cv2.imwrite(str(mask), np.full((height, width), value, np.uint8))
        masked = extract_images(scene.images, method, tmp_path, masks={one: mask})
        with_mask.append(masked.path)
    assert len({first.path, *with_mask}) == 3


def test_no_keypoint_lies_outside_a_rotated_image(scene, method, tmp_path):
    rotated, masks = rotate_scene(scene, 1, tmp_path / "rotated")
    found = extract_images(rotated.images, method, tmp_path, wanted=set(masks), masks=masks)
    with h5py.File(found.path) as file:
        for name, mask_path in masks.items():
            mask = cv2.imread(str(mask_path), cv2.IMREAD_GRAYSCALE)
            x, y = np.round(np.array(file[name]["keypoints"])).astype(int).T
            assert len(x) > 50
            assert (mask[y, x] == 255).all()
            assert (mask == 0).any()


@pytest.mark.parametrize("config", [
    match_config(), match_config(0.8), match_config(1.0, "paper"), match_config(1.0, "ours"),
    match_config(1.0, "scale"), match_config(1.0, "consensus"), match_config(1.0, "adalam"),
], ids=match_label)  # fmt: skip
def test_every_matcher_finds_the_same_image(config):
    features = random_features(300)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    other = replace(
        features, keypoints=features.keypoints[order], descriptors=features.descriptors[order]
    )
    index = match(features, other, config).index
    assert len(index) > 150
    assert (order[index[:, 1]] == index[:, 0]).float().mean() > 0.99
    assert len(index[:, 0].unique()) == len(index[:, 1].unique()) == len(index)


def test_adalam_takes_images_without_features():
    empty, some = random_features(0), random_features(20)
    for a, b in ((empty, some), (some, empty), (empty, empty)):
        assert len(match(a, b, match_config(1.0, "adalam"))) == 0


def test_matches_are_resumed(scene, method, tmp_path):
    found = extract_images(scene.images, method, tmp_path)
    names = sorted(scene.images)
    one = match_pairs(found.path, [(names[1], names[0])], MATCH, tmp_path)
    pairs = [(names[1], names[0]), (names[2], names[0])]
    two = match_pairs(found.path, pairs, MATCH, tmp_path, jobs=2)
    assert (one.num_matched, two.num_matched, one.path) == (1, 1, two.path)
    assert match_pairs(found.path, pairs, match_config(), tmp_path).path != one.path
    with MatchStore(two.path) as store:
        assert sorted(store.pairs()) == sorted(pairs)


def test_options_are_checked():
    for options, message in (
        ((1.0, "mine"), "no filter 'mine'; there are none, paper"),
        ((1.5,), "ratio must be in"),
        ((0.8, "adalam"), "which has its own"),
    ):
        with pytest.raises(ValueError, match=message):
            match_config(*options)
    with pytest.raises(ValueError, match="at least"):
        StereoPlan([], [RANSAC])
    with pytest.raises(ValueError, match="jobs must be at least 1"), open_pool(0):
        pass


def test_methods_without_angles_are_not_filtered(scene, cache):
    upright = load_extractor("rootsift-upright", 500)
    filtered = [match_config(0.9, name) for name in ("density", "scale", "paper")]
    run = run_stereo([scene.pair_set().limit(2)], upright, plan(matches=filtered),
                     Resources(cache))  # fmt: skip
    assert run.chosen.match == MATCH


def run_cli(part, out, *more):
    root = part.parents[2]
    options = ["--data", str(root), "--scenes", "corner", "--method", "sift", "--jobs", "1"]
    ransac = ["--estimator", "magsac", "--max-iterations", "3000", "--ratio", "0.9"]
    sizes = ["--num-keypoints", "600", "--seeds", "2"]
    return imc.main([*options, *ransac, *sizes, "--out", str(out), *more])


def test_the_program_writes_everything(part, tmp_path, capsys):
    assert run_cli(part, tmp_path, "--thresholds", "1", "20", "--covisibility", "0") == 0
    table = capsys.readouterr().out
    assert "Protocol imc2021-stereo" in table
    assert (tmp_path / "table.md").read_text() == table
    record = json.loads((tmp_path / "results.json").read_text())
    entry = record["methods"]["sift"]
    assert record["protocol"] == "imc2021-stereo"
    assert record["parameters"]["covisibility"] == 0
    assert entry["setting"]["threshold_px"] == 1
    (figures,) = entry["scenes"]
    assert figures["mean"]["maa10"] > 0.7
    assert len(figures["by_seed"]) == 2
    assert [entry["threshold_px"] for entry in figures["sweep"]] == [1, 20]
    for name in ("accuracy-phototourism-corner", "threshold-phototourism-corner"):
        assert (tmp_path / f"{name}.png").is_file()
        assert (tmp_path / f"{name}.svg").is_file()
    lines = (tmp_path / "pairs.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 10
    assert lines[0].startswith("scene,method,seed,image_a,image_b,reported,rotation_error_deg")


def test_old_names_of_options_are_read_and_recorded_by_the_new_ones(tmp_path):
    words = ["--data", str(tmp_path), "--method", "sift", "--out", str(tmp_path)]
    old = imc.build_parser().parse_args([*words, "--turned", "3", "--filter", "ours"])
    new = imc.build_parser().parse_args([*words, "--rotated", "3", "--filter", "density"])
    assert vars(old) == vars(new)
    old = imc.build_parser().parse_args([*words, "--matcher", "adalam"])
    new = imc.build_parser().parse_args([*words, "--filter", "adalam"])
    assert read_plan(old) == read_plan(new)
    assert read_plan(new).matches == [match_config(1.0, "adalam")]
    mixed = imc.build_parser().parse_args([*words, "--matcher", "adalam", "--filter", "paper"])
    with pytest.raises(ValueError, match="filter of its own"):
        read_plan(mixed)


@pytest.mark.slow
def test_the_program_rotates_images(part, tmp_path):
    assert run_cli(part, tmp_path, "--rotated", "3", "--num-pairs", "3") == 0
    record = json.loads((tmp_path / "results.json").read_text())
    assert "rotated by any angle (seed 3)" in record["data"]
    assert record["methods"]["sift"]["scenes"][0]["num_pairs"] == 3


@pytest.mark.slow
def test_the_program_runs_multiview_with_its_own_matching(part, tmp_path):
    sizes = ["--bag-sizes", "3", "5", "--num-bags", "4"]
    tasks = ["--task", "stereo,multiview", *sizes, "--ratio", "none", "0.9", "--seeds", "1"]
    assert run_cli(part, tmp_path, *tasks, "--export", str(tmp_path / "sub")) == 0
    assert json.loads((tmp_path / "results.json").read_text())["protocol"] == "imc2021-stereo"
    record = json.loads((tmp_path / "multiview" / "results.json").read_text())
    assert record["protocol"] == "imc2021-multiview"
    assert "chosen on every second bag of a size from ratios none, 0.9" in record["description"]
    assert record["data"].endswith("5 images, 4 bags of 3, 1 of 5")
    entry = record["methods"]["sift"]
    assert entry["weights"] == "-"
    assert set(entry["multiview_tuning"]) == {"nn", "nn ratio 0.9"}
    assert entry["multiview_matches"] in entry["multiview_tuning"]
    (result,) = entry["multiview"]
    assert sorted(len(bag["names"]) for bag in result["bags"]) == [3, 3, 5]
    (submitted,) = json.loads((tmp_path / "sub" / "config.json").read_text())
    label = entry["multiview_matches"].replace(" ", "-")
    assert submitted["config_phototourism_multiview"]["custom_matches_name"] == label


@pytest.mark.slow
def test_multiview_can_be_run_alone(part, tmp_path, capsys, caplog, monkeypatch):
    task = ["--task", "multiview", "--bag-sizes", "4", "--num-bags", "2", "--seeds", "1"]
    monkeypatch.setitem(sys.modules, "pydegensac", None)
    assert run_cli(part, tmp_path, *task, "--estimator", "degensac") == 0
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "multiview" / "table.md").read_text()
    assert "Multiview, phototourism/corner" in printed
    record = json.loads((tmp_path / "multiview" / "results.json").read_text())
    (plot,) = record["plots"]
    shares = plot["curves"]["sift"]
    assert len(shares) == 10
    assert shares == sorted(shares)
    assert 100 * record["methods"]["sift"]["multiview"][0]["maa10"] == pytest.approx(
        np.mean(shares)
    )
    assert (tmp_path / "multiview" / "multiview-phototourism-corner.png").is_file()
    assert not (tmp_path / "results.json").exists()
    assert run_cli(part, tmp_path, "--estimator", "degensac") == 2
    assert "pip install pydegensac" in caplog.text


@pytest.mark.slow
def test_a_submission_has_the_matches_of_each_task(part, scene, tmp_path, monkeypatch):
    """Multiview is made to choose all mutual neighbours, stereo has a ratio test."""
    all_of_them = match_config()
    monkeypatch.setattr(imc, "sweep_multiview", lambda *_: MultiviewRun(all_of_them, []))
    options = ["--task", "stereo,multiview", "--bag-sizes", "3", "--export", str(tmp_path / "sub")]
    assert run_cli(part, tmp_path, *options, "--export-runs", "1", "--seeds", "1") == 0
    found = extract_images(scene.images, load_extractor("sift", 600), tmp_path / "again")
    folder = tmp_path / "sub" / "phototourism" / "corner"
    with FeatureStore(found.path) as store, h5py.File(folder / "matches_multiview.h5") as file:
        assert len(file) == 10
        for pair in all_pairs(scene.images):
            index = match(*(store.read(name) for name in pair), all_of_them).index
            assert file[pair_key(*pair)].shape == (2, len(index))


@pytest.mark.parametrize(("options", "message"), [
    (("--task", "multiview", "--bag-sizes", "9", "12"), "no scene has bags of 9 12 images"),
    (("--task", "stereo,multiview", "--bag-sizes", "5", "--ratio", "none", "0.9"),
     "one bag of each size"),
    (("--ratio", "much"), "ratio must be a number"),
    (("--task", "sfm"), "no task 'sfm'"),
    (("--task", "multiview", "--export", "somewhere"), "needs the stereo task"),
    (("--scenes", "lake"), "no scene 'lake'"),
    (("--seeds", "0"), "seeds must be at least 1"),
    (("--covisibility", "0.9"), "no calibrated pair of covisibility 0.9"),
    (("--method", "sift"), "given twice"),
    (("--turned", "-1"), "must not be negative"),
])  # fmt: skip
def test_mistakes_are_told(part, tmp_path, caplog, options, message):
    assert run_cli(part, tmp_path, *options) == 2
    assert message in caplog.text


def test_errors_agree_with_the_metric(scene):
    pair = scene.pair_set().pairs[0]
    true = (pair.rotation, pair.translation)
    assert pose_error_deg(true, true) == pytest.approx(0, abs=1e-6)
    assert list_scenes(scene.images[pair.a].parents[3])[0].name == "corner"
