"""Refinement of matched positions in the pose evaluation: near a loose geometry, and cached."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from evaluation.extractors.named_extractor import REFINED
from evaluation.extractors.registry import LEVEL_SCALE, load_extractor
from evaluation.imc import __main__ as imc
from evaluation.imc.dataset import read_scene
from evaluation.relative_pose import refinement
from evaluation.relative_pose.correspondences import make_correspondences
from evaluation.relative_pose.estimators import RansacOptions
from evaluation.relative_pose.matching import match_config, match_label, without_orientation
from evaluation.relative_pose.refined_store import RefinedPair, RefinedStore
from evaluation.relative_pose.refinement import NEAR_PX, Refining, refine_matched, refine_pairs
from evaluation.relative_pose.refinement_report import count_levels, refinement_table
from evaluation.relative_pose.stereo import Resources, StereoPlan, run_stereo
from evaluation.relative_pose.two_view import epipolar_distance
from rekd_hloc.geometry import rotation_about
from rekd_hloc.refinement.pairs import RefinedMatches
from rekd_hloc.sfm.keypoint_scales import SIGMA_OF_LEVEL
from rekd_hloc.storage.features import FeatureStore
from tests.helpers import textured_image
from tests.imc_photos import make_layout

RANSAC = RansacOptions("magsac", 1.0, max_iterations=2000)
MATCH = match_config(0.9)
SIZE = (240, 180)


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    return make_layout(tmp_path_factory.mktemp("imc") / "data", 3)


@pytest.fixture(scope="module")
def scene(part):
    return read_scene(part.parent)


def test_distances_are_those_from_the_epipolar_lines():
    fundamental = np.array([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # rows of both images agree
    xy_a = np.array([[10.0, 20], [30, 40]])
    xy_b = np.array([[90.0, 20], [5, 43]])
    np.testing.assert_allclose(epipolar_distance(fundamental, xy_a, xy_b), [0, 3])
    doubled = np.diag([1, 1, 0.5]) @ fundamental  # image b is half as large
    distance = epipolar_distance(doubled, xy_a, xy_b / 2)
    np.testing.assert_allclose(distance, [0, 3], err_msg="the larger distance counts")


def _rotated_pair(folder, angle=0.6):
    """Two files of one picture, matches that are off by half a pixel in b, and the truth."""
    image = textured_image(SIZE[1], SIZE[0])
    matrix = rotation_about(angle, ((SIZE[0] - 1) / 2, (SIZE[1] - 1) / 2)).numpy()
    other = cv2.warpAffine(image, matrix[:2], SIZE, flags=cv2.INTER_CUBIC)
    paths = folder / "a.png", folder / "b.png"
    for path, pixels in zip(paths, (image, other), strict=True):
        cv2.imwrite(str(path), pixels)
    rng = np.random.default_rng(0)
    xy_a = rng.uniform([60, 50], [180, 130], (40, 2))
    true = xy_a @ matrix[:2, :2].T + matrix[:2, 2]
    moved = true + rng.normal(0, 0.35, true.shape)
    moved[:4] += [0, 60]  # wrong matches
    turn = np.zeros(40)
    return paths, make_correspondences(xy_a, moved, turn, turn + angle), true


def test_what_is_near_the_geometry_is_refined_and_the_rest_stays(tmp_path):
    paths, matched, true = _rotated_pair(tmp_path)
    found = refine_matched(matched, paths, ("a", "b"), Refining("magsac", 1.0))
    near = found.is_near
    assert near[4:].mean() > 0.9
    assert found.is_refined.sum() > 15
    assert not (found.is_refined & ~near).any()
    stays = ~found.is_refined
    np.testing.assert_array_equal(found.xy_b[stays], matched.xy_b[stays])
    before, after = (np.linalg.norm(xy - true, axis=1)[found.is_refined & (np.arange(40) > 3)]
                     for xy in (matched.xy_b, found.xy_b))  # fmt: skip
    assert np.median(after) < 0.1 < 0.3 < np.median(before)
    again = refine_matched(matched, paths, ("a", "b"), Refining("magsac", 1.0))
    np.testing.assert_array_equal(again.xy_b, found.xy_b)


def test_without_a_geometry_nothing_moves(tmp_path):
    paths, matched, _ = _rotated_pair(tmp_path)
    few = matched[np.arange(3)]
    found = refine_matched(few, paths, ("a", "b"), Refining("magsac", 1.0))
    assert not found.is_near.any()
    np.testing.assert_array_equal(found.xy_b, few.xy_b)


@pytest.fixture
def quick(monkeypatch):
    """Refinement that moves every second match by a tenth of a pixel, at once."""

    def refine(image_a, image_b, a, b, matches):
        count = len(matches)
        is_refined = torch.arange(count) % 2 == 0
        xy_a, xy_b = (k.xy[i] for k, i in zip((a, b), matches.index.T, strict=True))
        unknown = torch.full((count, 2, 2), torch.nan)
        moved = xy_b + 0.1 * is_refined[:, None]
        return RefinedMatches(matches, xy_a, moved, unknown, torch.ones(count), is_refined)

    monkeypatch.setattr(refinement, "refine", refine)


@pytest.mark.usefixtures("quick")
def test_refined_positions_are_made_once(scene, tmp_path, monkeypatch):
    method, pairs = load_extractor("sift", 200), scene.pair_set(0.0)
    resources = Resources(tmp_path)
    features = resources.extract(method, pairs.key, pairs.images)
    matches = resources.match(features, [pair.names for pair in pairs.pairs], MATCH)
    calls = []
    original = refinement.refine_matched
    monkeypatch.setattr(refinement, "refine_matched", lambda *a: calls.append(a[2]) or original(*a))

    def run(some, options):
        return refine_pairs(some, features.path, matches.path, options, tmp_path / "refined")

    options = Refining("magsac", method.level_scale)
    first = run(pairs.limit(2), options)
    assert len(calls) == 2
    assert run(pairs, replace(options, estimator="essential-magsac")) == first
    assert sorted(calls) == sorted(pair.names for pair in pairs.pairs)
    assert run(pairs, replace(options, level_scale=1.0)) != first
    monkeypatch.setattr(refinement, "code_digest", lambda: "other")
    assert run(pairs, options) != first
    with RefinedStore(first) as store, FeatureStore(features.path) as extracted:
        a, b = pairs.pairs[0].names
        refined = store.read(a, b)
        scales = extracted.read(b).keypoints.scale / SIGMA_OF_LEVEL
        assert np.isin(refined.scale_b.astype(np.float32), scales.numpy()).mean() > 0.9
        assert ((refined.shift_px > 0) == refined.is_refined).all()
        assert len(refined.xy_b) == len(refined.is_near) == len(refined.is_refined) > 10
        with pytest.raises(ValueError, match="no refined matches of"):
            store.read(b, a)


@pytest.mark.usefixtures("quick")
def test_stereo_says_what_was_refined_and_keeps_both_results(scene, tmp_path):
    method, pairs = load_extractor("sift", 400), scene.pair_set(0.0)
    plain = StereoPlan([MATCH], [RANSAC], (0,))
    before = run_stereo([pairs], method, plain, Resources(tmp_path))
    after = run_stereo([pairs], method, replace(plain, refine=True), Resources(tmp_path))
    assert (before.label, after.label) == ("sift", f"sift{REFINED}")
    first, second = before.scenes[0].by_seed[0], after.scenes[0].by_seed[0]
    assert [r.num_matches for r in first] == [r.num_matches for r in second]
    assert first != second
    assert max(r.error_deg for r in second) < 3
    assert len(list((tmp_path / "poses").iterdir())) == 2


@pytest.mark.usefixtures("quick")
def test_the_program_refines(part, tmp_path, caplog):
    words = ["--data", str(part.parents[2]), "--method", "sift", "--jobs", "1", "--ratio", "0.9"]
    words += ["--estimator", "magsac", "--num-keypoints", "200", "--out", str(tmp_path)]
    words += ["--max-iterations", "500", "--seeds", "1", "--refine"]
    assert imc.main(words) == 0
    record = json.loads((tmp_path / "results.json").read_text())
    assert list(record["methods"]) == ["sift + refinement"]
    stereo, levels = record["tables"]
    assert stereo["rows"][0][0] == "sift + refinement"
    assert levels["title"] == "Refined matches, phototourism/corner"
    counts = record["methods"]["sift + refinement"]["scenes"][0]["refined_by_level"]
    assert sum(c["num_matches"] for c in counts) > 10 < sum(c["num_refined"] for c in counts)
    assert [row[1] for row in levels["rows"]][:1] == [
        f"{2.0 ** counts[0]['octave']:g} to {2.0 ** (counts[0]['octave'] + 1):g}"
    ]
    assert imc.main([*words, "--task", "stereo,multiview"]) == 2
    assert "leave --export and multiview out" in caplog.text


def test_levels_are_counted_by_octave(tmp_path):
    scales = np.array([0.6, 1.0, 1.9, 2.0, 2.0])
    shifts = np.array([0.0, 0.5, 0.7, 0.0, 0.4])
    near, moved = np.array([0, 1, 1, 0, 1], bool), shifts > 0
    pair = RefinedPair(np.zeros((5, 2)), scales, shifts, near, moved)
    path = tmp_path / "refined.h5"
    with RefinedStore.resume(path, {"by": "test"}) as store:
        store.write("a", "b", pair)
    levels = count_levels(path, [("a", "b")])
    assert [(c.octave, c.num_matches, c.num_near, c.num_refined) for c in levels] == [
        (-1, 1, 0, 0), (0, 2, 2, 2), (1, 2, 1, 1),
    ]  # fmt: skip
    assert levels[0].shift_px is None
    assert levels[2].relative_shift == pytest.approx(0.2)
    assert refinement_table("t", {"m": levels}).rows[1][2:] == [2, 100.0, 100.0, "0.60", "0.43"]
    assert count_levels(path, []) == []


@pytest.mark.parametrize("name", ["orb", "sift", "colmap-sift"])
def test_a_keypoint_of_the_images_own_size_has_scale_one(name):
    image = torch.from_numpy(textured_image(120, 160)).float() / 255
    method = load_extractor(name, 300, device="cpu")
    scales = method.in_levels(method(image).keypoints).scale
    if name == "orb":
        assert scales.min() == pytest.approx(1.0)
    assert 0.3 < scales.min() <= scales.median() < 4.0
    assert method.level_scale == LEVEL_SCALE.get(name, 1.0)


def test_frames_that_are_all_upright_may_reach_consensus():
    assert without_orientation(match_config(1.0, "consensus")).filter == "consensus"
    assert match_label(without_orientation(match_config(0.8, "density"))) == "nn ratio 0.8"
    assert RANSAC.threshold_px < NEAR_PX
