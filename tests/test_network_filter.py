"""Tests of the network as a filter of matches, and of what files record of it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rekd_hloc import weight_files
from rekd_hloc.config import MatchConfig
from rekd_hloc.matching import nearest
from rekd_hloc.matching.match import filter_matches, make_matcher, match
from rekd_hloc.matching.match_network import (
    MatchJudge,
    MatchNetwork,
    filter_by_network,
    save_match_network,
)
from rekd_hloc.matching.nearest import match_nearest
from rekd_hloc.weight_files import weights_hash
from tests.helpers import random_features


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small network of random weights, with a threshold of 0.5."""
    path = tmp_path_factory.mktemp("weights") / "own.safetensors"
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = MatchNetwork(width=8, edge_width=8, num_heads=2, num_layers=2)
    save_match_network(path, MatchJudge(network, 0.5), {})
    return str(path)


def judge_of(threshold):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return MatchJudge(MatchNetwork(width=8, edge_width=8, num_heads=2, num_layers=2), threshold)


def two_images(count=80):
    a = random_features(count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(2))
    noise = torch.randn(a.descriptors.shape, generator=torch.Generator().manual_seed(3))
    rows = torch.nn.functional.normalize(a.descriptors[order] + 0.02 * noise, dim=1)
    return a, replace(a, keypoints=a.keypoints[order], descriptors=rows)


def test_the_likely_matches_stay_in_their_order():
    a, b = two_images()
    matches = match_nearest(a.descriptors, b.descriptors)
    every = filter_by_network(matches, a, b, judge_of(0.0))
    assert torch.equal(every.index, matches.index)
    assert bool(((every.score > 0) & (every.score < 1)).all())
    middle = float(every.score.median())
    some = filter_by_network(matches, a, b, judge_of(middle))
    assert torch.equal(some.index, every.index[every.score >= middle])
    assert torch.equal(some.score, every.score[every.score >= middle])


def test_the_matcher_filters_mutual_nearest_neighbours(weights):
    a, b = two_images()
    config = MatchConfig(filter="network", network=weights)
    matcher = make_matcher(config)
    assert set(matcher.needs) == {"angles", "scales"}
    assert matcher.provenance["match_network"] == weights_hash(Path(weights))
    expected = filter_by_network(match_nearest(a.descriptors, b.descriptors), a, b, judge_of(0.5))
    assert torch.equal(match(a, b, config).index, expected.index)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_images_of_few_keypoints(weights, count):
    features = random_features(count)
    config = MatchConfig(filter="network", network=weights)
    assert len(match(features, two_images()[1], config)) <= count


def test_files_made_without_the_network_stay_what_they_are():
    """The option came later, so that files made before it do not have it."""
    assert "network" not in make_matcher(MatchConfig()).provenance["config"]


def test_weights_are_told_apart_by_what_is_in_them_not_by_their_path(weights, tmp_path):
    shutil.copy(weights, tmp_path / "copy.safetensors")
    save_match_network(tmp_path / "other.safetensors", judge_of(0.4), {})
    own, copy, other = (
        make_matcher(MatchConfig(filter="network", network=str(path))).provenance
        for path in (weights, tmp_path / "copy.safetensors", tmp_path / "other.safetensors")
    )
    assert own == copy
    assert own != other
    assert own["config"] == other["config"]


def test_descriptors_are_compared_once(weights, monkeypatch):
    scans, real = [], nearest._scan
    monkeypatch.setattr(nearest, "_scan", lambda *a, **k: scans.append(1) or real(*a, **k))
    assert len(match(*two_images(), MatchConfig(filter="network", network=weights))) > 0
    assert len(scans) == 1


def test_weights_that_are_not_there_are_named_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, "PRETRAINED", tmp_path)
    with pytest.raises(FileNotFoundError, match="no match network 'missing': none ships here"):
        make_matcher(MatchConfig(filter="network", network="missing"))


def test_matches_without_descriptors_cannot_be_judged():
    a, b = two_images()
    matches = match_nearest(a.descriptors, b.descriptors)
    with pytest.raises(ValueError, match="network needs descriptors too; call filter_by_network"):
        filter_matches(matches, a.keypoints, b.keypoints, MatchConfig(filter="network"))
