"""Image pairs that consensus says too little of: another filter decides, and that is told."""

import json
import math
from dataclasses import replace

import pytest
import torch

from rekd_hloc.cli.main import main
from rekd_hloc.config import MatchConfig
from rekd_hloc.geometry import rotation_about
from rekd_hloc.matching.match import FALLBACK_RATIO, MIN_CONSENSUS, filter_matches, match
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.sfm.report import format_report
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Features
from tests.helpers import moved_keypoints, random_features

CONSENSUS = MatchConfig(filter="consensus")
DENSITY = MatchConfig(filter="density", ratio=FALLBACK_RATIO)
PAIRS = [("a.jpg", "b.jpg"), ("a.jpg", "few.jpg"), ("b.jpg", "few.jpg"), ("a.jpg", "none.jpg")]


def rotated(features, angle=0.4):
    """The features of the same image rotated."""
    keypoints = moved_keypoints(features.keypoints, rotation_about(angle, (320.0, 240.0)))
    return replace(features, keypoints=keypoints)


def few_true_matches(num_isolated=8, num_clustered=5, num_other=200):
    """Two images that share a few keypoints, some of them near each other; the others differ."""
    num_same = num_isolated + num_clustered
    a = random_features(num_same + num_other, seed=1)
    xy = a.keypoints.xy.clone()
    corner = torch.tensor([500.0, 100.0])
    xy[num_isolated:num_same] = corner + 40 * a.keypoints.xy[num_isolated:num_same] / 640
    a = replace(a, keypoints=replace(a.keypoints, xy=xy))
    b, other = rotated(a), random_features(len(a), seed=2)
    descriptors = torch.cat([a.descriptors[:num_same], other.descriptors[num_same:]])
    return a, Features(b.keypoints, descriptors, b.image_size), num_same


def true_matches(matches, num_same):
    is_true = (matches.index[:, 0] == matches.index[:, 1]) & (matches.index[:, 0] < num_same)
    return matches.index[is_true, 0].tolist()


@pytest.mark.parametrize(
    ("isolated", "clustered", "is_fallback"), [(8, 5, False), (8, 0, True), (0, 5, True)]
)
def test_few_true_matches_are_not_lost(isolated, clustered, is_fallback):
    """Those that are near each other support all others too."""
    a, b, num_same = few_true_matches(isolated, clustered)
    matches, expected = match(a, b, CONSENSUS), match(a, b, DENSITY)
    assert true_matches(expected, num_same) == list(range(num_same))
    assert true_matches(matches, num_same) == list(range(num_same))
    assert not expected.is_fallback
    assert matches.is_fallback == is_fallback
    if is_fallback:
        assert torch.equal(matches.index, expected.index)


def test_support_decides_where_there_is_enough():
    a = random_features(60)
    matches = match(a, rotated(a), CONSENSUS)
    assert len(matches) > MIN_CONSENSUS
    assert not matches.is_fallback


def test_a_pair_without_a_match_leaves_nothing_to_decide():
    a, none = random_features(60), random_features(0)
    assert not match(a, none, CONSENSUS).is_fallback
    matches = match(a, rotated(a), MatchConfig(filter="none"))
    few = filter_matches(matches[torch.arange(5)], a.keypoints, rotated(a).keypoints, CONSENSUS)
    assert few.is_fallback


@pytest.fixture
def features_path(tmp_path):
    """Two views of one scene, an image that shares a few keypoints with them, and an empty one."""
    a, few, _ = few_true_matches(num_clustered=0)
    images = {"a.jpg": a, "b.jpg": rotated(a, math.pi), "few.jpg": few}
    with FeatureStore.resume(tmp_path / "features.h5", {"config": "{}"}) as store:
        for name, features in (images | {"none.jpg": random_features(0)}).items():
            store.write(name, features)
    return tmp_path / "features.h5"


def test_the_summary_counts_such_pairs_also_those_of_runs_before(features_path, tmp_path):
    out = tmp_path / "matches.h5"
    assert match_images(features_path, out, PAIRS[:2], CONSENSUS).num_fallback == 1
    summary = match_images(features_path, out, PAIRS, CONSENSUS)
    assert (summary.num_fallback, summary.num_resumed) == (2, 2)
    with MatchStore(out) as store:
        assert [store.read(*pair).is_fallback for pair in PAIRS] == [False, True, True, False]
        assert store.read("few.jpg", "a.jpg").is_fallback
    assert match_images(features_path, tmp_path / "other.h5", PAIRS).num_fallback == 0


def test_the_command_says_how_many(features_path, tmp_path, capsys):
    arguments = ["match", str(features_path), str(tmp_path / "m.h5"), "--quiet"]
    assert main([*arguments, "--filter", "consensus"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == (
        "2 of 6 pairs had too little support for consensus; ratio test and orientation filter "
        "decided"
    )
    assert main([*arguments, "--filter", "consensus", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_fallback"] == 2


def test_the_report_says_how_many():
    report = {
        "num_registered": 2, "num_images": 2, "num_models": 1, "num_points3D": 9,
        "num_observations": 18, "mean_track_length": 2.0, "mean_reprojection_error_px": 0.5,
        "pairs": {"num_verified": 1, "num_pairs": 1, "num_inliers": 9, "num_matches": 9},
        "seconds": {}, "peak_memory_mib": 1.0, "skipped": {}, "diagnosis": "",
    }  # fmt: skip
    assert "consensus" not in format_report(report)
    assert "2 of 2 registered, 1 model\n" in format_report(report)
    apart = {**report, "num_images": 9, "num_models": 3, "num_in_other_models": 5}
    assert "2 of 9 registered, 3 models; 5 more in the smaller ones\n" in format_report(apart)
    text = format_report({**report, "num_fallback": 1})
    assert "consensus     1 of 1 pair had too little support" in text
