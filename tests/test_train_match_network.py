"""Tests of the match network's training: labels, losses, and runs that go on where they stopped."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from rekd_hloc.matching.match_network import MatchJudge, MatchNetwork, load_match_network
from rekd_hloc.types import Features, Keypoints
from tests.test_match_network import random_evidence
from training import train_match_network
from training.match_composites import CompositeConfig, draw_composite
from training.match_data import make_pairs, pairs_of_views
from training.match_network_config import MatchDataConfig, TrainMatchNetworkConfig
from training.match_network_losses import eight_point, geometry_loss, label_loss, squared_sampson
from training.match_network_run import draw_batch
from training.match_network_validation import pair_precision, precision_recall, validate
from training.match_pairs import (
    LabelledPair,
    draw_training_pair,
    load_or_make,
    strongest,
    unrelated_pair,
)
from training.match_scenes import MatchScenes
from training.planar_views import NOTHING, PlanarView, carry_to_view
from training.scenes.scene_folders import SceneFolders
from training.warps import WarpConfig


def labelled(count, seed=0):
    """Every second match is right, as its frames say too; a few are not known."""
    right = torch.arange(count) % 2 == 0
    known = torch.arange(count) % 10 != 7
    return LabelledPair(random_evidence(count, seed), right, known, is_rigid=False)


def unrelated(count, seed):
    pair = labelled(count, seed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    xy = pair.evidence.xy.clone()
    xy[:, 1] = xy[order, 1]
    none = torch.zeros(count, dtype=torch.bool)
    return LabelledPair(replace(pair.evidence, xy=xy), none, ~none, is_rigid=False)


# ---------------------------------------------------------------- pairs


def test_pairs_come_back_from_their_files(tmp_path):
    made = []

    def make():
        for seed in range(3):
            made.append(seed)
            yield labelled(20 + seed, seed)

    first = load_or_make(tmp_path, "kind", make)
    again = load_or_make(tmp_path, "kind", make)
    assert made == [0, 1, 2]
    assert [len(pair) for pair in again] == [20, 21, 22]
    torch.testing.assert_close(again[1].evidence.xy, first[1].evidence.xy)
    assert torch.equal(again[2].is_known, labelled(22).is_known)


def test_exchanged_and_reflected_pairs_have_the_same_frames():
    pair = labelled(60)
    row, near = pair.evidence.neighbours(torch.arange(60))
    signs = pair.evidence.edge_signs(row, near, torch.float64)
    reflected = pair.reflected().evidence.edge_signs(row, near, torch.float64)
    lengths = [6, 7, 8, 9, 10, 11, 12, 13, 15]
    torch.testing.assert_close(reflected[:, lengths], signs[:, lengths])
    torch.testing.assert_close(reflected[:, 14], -signs[:, 14])  # rotates the other way
    exchanged = pair.swapped().evidence.edge_signs(row, near, torch.float64)
    torch.testing.assert_close(exchanged[:, [7, 6]], signs[:, [6, 7]])


def test_a_step_sees_a_part_of_a_large_pair():
    pair = labelled(400)
    drawn = draw_training_pair(np.random.default_rng(0), pair, 50)
    assert len(drawn) == 50
    assert len(drawn.is_right) == len(drawn.is_known) == len(drawn.evidence.rank) == 50


def test_unrelated_images_have_wrong_matches_only():
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(2, 20, 8, generator=generator), dim=2)
    ones = torch.ones(20)
    points = Keypoints(torch.rand(20, 2, generator=generator), ones, ones, torch.arange(20.0))
    a, b = (Features(points, part, (10, 10)) for part in rows)
    pair = unrelated_pair(a, b)
    assert len(pair) > 0
    assert not pair.is_right.any()
    assert bool(pair.is_known.all())
    assert strongest(a, 3).keypoints.score.tolist() == [19, 18, 17]


# ---------------------------------------------------------------- composites


def flat_view(label, maps):
    return PlanarView(np.zeros(label.shape, np.uint8), label.astype(np.int16), np.stack(maps))


def test_a_keypoint_is_seen_where_its_piece_is():
    shift = np.eye(3)
    shift[0, 2] = 10
    left = np.where(np.arange(40) < 20, 0, 1).astype(np.uint8) * np.ones((30, 1), np.uint8)
    of = flat_view(left, [np.eye(3), np.eye(3)])
    other = left.astype(np.int16)
    other[:, 5:15] = NOTHING
    to = flat_view(other, [np.eye(3), shift])
    xy = torch.tensor([[2.0, 3.0], [8.0, 3.0], [25.0, 9.0], [35.0, 9.0]])
    keypoints = Keypoints(xy, torch.ones(4), torch.ones(4), torch.ones(4))
    carried, is_seen = carry_to_view(of, to, keypoints)
    assert is_seen.tolist() == [True, False, True, False]  # hidden; moved; moved out of the view
    assert carried[2].tolist() == [35, 9]


def test_views_show_the_photo_where_their_maps_say():
    rows, columns = np.mgrid[:120, :160]
    photo = (np.sin(rows / 9) * 60 + np.cos(columns / 11) * 60 + 128).astype(np.uint8)
    still = WarpConfig(
        scale_range=(0.9, 1.1), gamma=(1, 1), contrast=(1, 1), brightness=0, shading=0, blur_px=0,
        noise=0, jpeg_quality=100,
    )  # fmt: skip
    config = CompositeConfig(warps=still, views=3)
    views = draw_composite(np.random.default_rng(1), photo, [photo[::-1]], config)
    for view in views:
        row, column = np.nonzero(view.label != NOTHING)
        maps = np.linalg.inv(view.maps)[view.label[row, column]]
        there = np.einsum("kij,kj->ki", maps, np.column_stack([column, row, np.ones(len(row))]))
        x, y = (there[:, :2] / there[:, 2:]).T
        expected = np.sin(y / 9) * 60 + np.cos(x / 11) * 60 + 128
        shown = view.grey[row, column].astype(float)
        assert np.median(np.abs(shown - expected)) < 4
        assert len(view.maps) >= 2


def test_labels_of_views_follow_the_pieces():
    label = np.zeros((100, 100), np.uint8)
    shift = np.eye(3)
    shift[0, 2] = 10
    views = [flat_view(label, [np.eye(3)]), flat_view(label, [shift])]
    grid = torch.cartesian_prod(torch.arange(10.0, 80, 10), torch.arange(10.0, 80, 10))
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(len(grid), 16, generator=generator))
    offsets = iter([0.0, 10.0])

    def extract(image):
        xy = grid + torch.tensor([next(offsets), 0.0])
        xy[:5, 0] += 40 * (float(xy[0, 0]) > 15)  # five of them lie elsewhere in the second view
        ones = torch.ones(len(grid))
        return Features(Keypoints(xy, ones, ones, ones), rows, (100, 100))

    (pair,) = pairs_of_views(views, extract)
    assert pair.is_right[:5].tolist() == [False] * 5
    assert bool(pair.is_right[5:].all())
    assert bool(pair.is_known.all())


# ---------------------------------------------------------------- losses


def test_label_loss_falls_with_better_logits():
    pair = labelled(100)
    signs = torch.where(pair.is_right, 1.0, -1.0)
    losses = [float(label_loss(factor * signs, [pair])) for factor in (-3, 0, 3)]
    assert losses[0] > losses[1] > losses[2]
    wrong_where_unknown = torch.where(pair.is_known, signs, -50 * signs)
    assert float(label_loss(wrong_where_unknown, [pair])) == pytest.approx(
        float(label_loss(signs, [pair]))
    )


def two_views(count):
    """Points of a scene in two cameras, moved apart and rotated."""
    rng = np.random.default_rng(0)
    xyz = rng.uniform(-1, 1, (count, 3)) + [0, 0, 4]
    cos, sin = np.cos(0.2), np.sin(0.2)
    there = xyz @ np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]).T + [0.7, 0.1, 0.2]
    return (torch.from_numpy(points[:, :2] / points[:, 2:]) for points in (xyz, there))


def test_eight_point_finds_the_lines_of_the_weighted_matches():
    xy_a, xy_b = two_views(60)
    spoilt = xy_b.clone()
    spoilt[40:] = spoilt[40:].flip(0)
    weight = (torch.arange(60) < 40).double()
    found = eight_point(xy_a, spoilt, weight + 1e-12)
    assert float(squared_sampson(found, xy_a, xy_b).max()) < 1e-10
    spoilt_by_all = eight_point(xy_a, spoilt, torch.ones(60).double())
    assert float(squared_sampson(spoilt_by_all, xy_a, xy_b).mean()) > 1e-5


def test_geometry_loss_pulls_wrong_matches_down():
    xy_a, xy_b = two_views(80)
    wrong = torch.arange(80) >= 60
    xy_b[wrong] = xy_b[wrong].flip(0)
    evidence = replace(random_evidence(80), xy=torch.stack([xy_a, xy_b], dim=1))
    pair = LabelledPair(evidence, ~wrong, ~wrong | wrong, is_rigid=True)
    logits = torch.zeros(80, requires_grad=True)
    loss = geometry_loss(logits, [pair])
    loss.backward()
    assert logits.grad[wrong].mean() > 0
    assert float(geometry_loss(torch.where(wrong, -9.0, 9.0), [pair])) < loss.item() / 5
    assert float(geometry_loss(logits, [replace(pair, is_rigid=False)])) == 0


# ---------------------------------------------------------------- validation


def test_average_precision_and_recall():
    pair = labelled(100)
    right = pair.is_right.float()
    assert pair_precision(right, pair) == 1
    assert pair_precision(-right, pair) < 0.4
    assert precision_recall(pair.is_right, pair) == (1, 1)
    precision, recall = precision_recall(torch.ones(100, dtype=torch.bool), pair)
    assert (precision, recall) == (50 / 90, 1)


def test_validation_counts_unrelated_pairs_that_keep_matches():
    network = MatchNetwork(width=8, edge_width=8, num_heads=2, num_layers=2)
    torch.nn.init.zeros_(network.heads[-1][1].weight)
    torch.nn.init.constant_(network.heads[-1][1].bias, 5.0)
    quality = validate(network, [labelled(100), unrelated(50, 1)])
    assert quality["unrelated"] == 1
    assert quality["recall"] == 1


# ---------------------------------------------------------------- runs


TINY = TrainMatchNetworkConfig(
    width=8, edge_width=8, num_heads=2, num_layers=2, steps=6, pairs_per_step=2, max_matches=40,
    validate_every=3, warmup_steps=2, geometry_from=0.5,
)  # fmt: skip


@pytest.fixture
def pairs(monkeypatch):
    found = ([labelled(70, s) for s in range(6)], [labelled(60, 99), unrelated(40, 98)])
    monkeypatch.setattr(train_match_network, "make_pairs", lambda config, quiet: found)
    return found


def test_training_tells_right_from_wrong_and_its_weights_load(pairs, tmp_path):
    config = replace(TINY, steps=36, validate_every=36, learning_rate=0.02, output=str(tmp_path))
    path = train_match_network.train(config, quiet=True)
    judge = load_match_network(str(path))
    (probability,) = judge.probabilities([pairs[1][0].evidence])
    right = pairs[1][0].is_right
    assert probability[right].mean() > probability[~right].mean() + 0.3
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["average_precision"] > 0.9
    assert log[-1]["geometry"] >= 0


def test_a_resumed_run_equals_one_that_was_not_stopped(pairs, tmp_path, monkeypatch):
    whole = train_match_network.train(replace(TINY, output=str(tmp_path / "whole")), quiet=True)
    config = replace(TINY, output=str(tmp_path / "parts"), checkpoint_every=1)
    advance = train_match_network.MatchNetworkRun.advance

    def fail_once(run, batch):
        if run.step == 4:
            raise OSError("power cut")
        return advance(run, batch)

    monkeypatch.setattr(train_match_network.MatchNetworkRun, "advance", fail_once)
    with pytest.raises(OSError, match="power cut"):
        train_match_network.train(config, quiet=True)
    monkeypatch.setattr(train_match_network.MatchNetworkRun, "advance", advance)
    parts = train_match_network.train(config, quiet=True)
    evidence = [random_evidence(50)]
    expected, found = (
        MatchJudge(load_match_network(str(p)).network, 0.5).probabilities(evidence)[0]
        for p in (whole, parts)
    )
    assert torch.equal(found, expected)


def test_other_options_do_not_go_on_with_a_run(pairs, tmp_path):
    config = replace(TINY, output=str(tmp_path))
    train_match_network.train(config, quiet=True)
    with pytest.raises(ValueError, match="made with another configuration .*width"):
        train_match_network.train(replace(config, width=16), quiet=True)


def test_batches_are_functions_of_the_step(pairs):
    first, again = (draw_batch(pairs[0], TINY, 5) for _ in range(2))
    assert all(torch.equal(a.evidence.xy, b.evidence.xy) for a, b in zip(first, again, strict=True))
    assert len(first) == 2


def test_what_a_run_cannot_use_is_named(tmp_path):
    with pytest.raises(ValueError, match="data gives no pair; name models, photos and features"):
        make_pairs(TrainMatchNetworkConfig(cache=str(tmp_path)))
    with pytest.raises(ValueError, match="features and folders.models must be as many, got 1 and"):
        MatchScenes(features=("a.h5",))
    scenes = MatchScenes(SceneFolders(("m",), ("i",)), ("f",))
    with pytest.raises(ValueError, match="data and validation share a scene"):
        TrainMatchNetworkConfig(data=MatchDataConfig(scenes=scenes), validation=scenes)
    with pytest.raises(ValueError, match="max_planes and views must be at least 2"):
        CompositeConfig(views=1)
