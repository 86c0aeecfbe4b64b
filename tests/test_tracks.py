"""Views of an image, the tracks in them, and the batches drawn from the tracks."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from rekd_hloc.config import DetectorConfig
from rekd_hloc.features.descriptor.patches import cut_patches
from rekd_hloc.geometry import warp_points
from rekd_hloc.types import Keypoints
from tests.helpers import random_keypoints
from tests.training_data import (
    GENTLE,
    TRACKS,
    CornerDetector,
    rgb_image,
    write_images,
    write_tracks,
)
from training.patch_augmentation import PatchAugmentation
from training.track_batches import BatchPlan, TrackSet
from training.tracks import TrackConfig, make_tracks, match_by_map, warp_keypoints
from training.warps import WarpConfig, draw_view, plain_view


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), 4)


@pytest.fixture(scope="module")
def cache(folder, tmp_path_factory):
    return write_tracks(tmp_path_factory.mktemp("tracks"), folder)


def pixels_around(grey, xy):
    ones = torch.ones(len(xy))
    keypoints = Keypoints(torch.as_tensor(xy, dtype=torch.float32), ones, 0 * ones, ones)
    image = torch.from_numpy(grey).float()
    return cut_patches(image, keypoints, patch_size_px=8.0, oriented=False, antialias=False).mean(
        (1, 2, 3)
    )


@pytest.mark.parametrize("upright", [False, True])
def test_a_view_shows_what_its_map_says(upright):
    config = WarpConfig(
        gamma=(1, 1), contrast=(1, 1), brightness=0, shading=0, noise=0, blur_px=0, jpeg_quality=100
    )
    image = rgb_image(1)
    for seed in range(4):
        view = draw_view(np.random.default_rng(seed), image, config, upright=upright)
        assert view.is_upright == upright
        xy = torch.rand(400, 2, dtype=torch.float64) * torch.tensor([250, 180.0]) + 30
        moved = warp_points(torch.from_numpy(view.view_from_image), xy)
        size = torch.tensor(view.grey.shape[::-1])
        inside = ((moved > 8) & (moved < size - 9)).all(dim=1)
        assert inside.sum() > 30
        truth = pixels_around(image[..., 0], xy[inside])
        seen = pixels_around(view.grey, moved[inside])
        assert float((truth - seen).abs().median()) < 4
        turn = math.degrees(math.atan2(*view.view_from_image[[1, 0], 0]))
        assert abs(turn) < 40 or not upright
        assert view.grey.size < 1.35 * image[..., 0].size


def test_plain_view_is_the_photo():
    view = plain_view(rgb_image())
    assert np.abs(view.grey.astype(int) - rgb_image()[..., 0]).max() <= 1
    assert np.array_equal(view.view_from_image, np.eye(3))


def test_keypoints_agree_only_within_all_tolerances():
    a = random_keypoints(30, (300, 300))
    b_from_a = torch.tensor([[0.0, -1.1, 320.0], [1.1, 0.0, 5.0], [0.0, 0.0, 1.0]]).double()
    b = warp_keypoints(a, b_from_a)
    assert torch.allclose(b.scale, a.scale * 1.1, atol=1e-4)
    assert torch.allclose(
        (b.angle - a.angle) % (2 * torch.pi), torch.tensor(torch.pi / 2), atol=1e-4
    )
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    partner = match_by_map(a, b[order], b_from_a, TRACKS, angles=True)
    assert torch.equal(order[partner], torch.arange(30))
    turned = Keypoints(b.xy, b.scale, b.angle + 0.6, b.score)
    assert (match_by_map(a, turned, b_from_a, TRACKS, angles=True) == -1).all()
    assert (match_by_map(a, turned, b_from_a, TRACKS, angles=False) >= 0).all()
    larger = Keypoints(b.xy, b.scale * 1.6, b.angle, b.score)
    assert (match_by_map(a, larger, b_from_a, TRACKS, angles=True) != torch.arange(30)).all()
    moved = Keypoints(b.xy + 3 * b.scale[:, None], b.scale, b.angle, b.score)
    assert (match_by_map(a, moved, b_from_a, TRACKS, angles=True) != torch.arange(30)).all()
    assert len(match_by_map(Keypoints.empty(), b, b_from_a, TRACKS, angles=True)) == 0


def test_patches_of_a_track_look_alike():
    tracks = make_tracks(rgb_image(2), CornerDetector(), TRACKS, np.random.default_rng(0))
    assert len(tracks) > 20
    assert tracks.start[-1] == len(tracks.patches)
    assert (np.diff(tracks.start) >= 2).all()
    assert 0 < tracks.is_upright.sum() < len(tracks)
    flat = tracks.patches.reshape(len(tracks.patches), -1).astype(float)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    same = (flat[tracks.start[:-1]] * flat[tracks.start[:-1] + 1]).sum(axis=1)
    other = (flat[tracks.start[:-1]] * np.roll(flat[tracks.start[:-1] + 1], 1, axis=0)).sum(axis=1)
    for kind in (tracks.is_upright, ~tracks.is_upright):
        assert np.median(same[kind]) > 0.8
        assert np.median(other[kind]) < 0.5


def test_lonely_keypoints_get_a_partner_by_the_true_map():
    config = TrackConfig(warps=GENTLE, num_views=1, min_tracks=30, distance_px=1e-9)
    tracks = make_tracks(rgb_image(3), CornerDetector(), config, np.random.default_rng(0))
    assert (~tracks.is_upright).sum() == 30


def test_a_photo_without_keypoints_gives_no_track():
    tracks = make_tracks(
        np.full_like(rgb_image(), 90), CornerDetector(), TRACKS, np.random.default_rng(0)
    )
    assert len(tracks) == 0
    assert tracks.patches.shape == (0, 32, 32)


def test_tracks_are_made_once_and_only_for_one_configuration(folder, tmp_path):
    write_tracks(tmp_path, folder)
    first = {p.name: p.read_bytes() for p in tmp_path.glob("*.np?")}
    assert len(first) == 8
    (tmp_path / "00001.npz").unlink()  # as a run that was killed leaves it
    kept = (tmp_path / "00002.npy").stat().st_mtime_ns
    write_tracks(tmp_path, folder)
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.npy")} == {
        name: data for name, data in first.items() if name.endswith(".npy")
    }
    assert (tmp_path / "00002.npy").stat().st_mtime_ns == kept
    with pytest.raises(ValueError, match="another configuration.*tracks"):
        write_tracks(tmp_path, folder, TrackConfig(warps=GENTLE, num_views=3))


def test_batches_pair_views_of_one_track(cache):
    tracks = TrackSet(cache)
    plan = BatchPlan(batch_size=60, images=2, augmentation=PatchAugmentation(max_gamma=1.0))
    batch = tracks.batch(np.random.default_rng([0, 5]), plan)
    again = tracks.batch(np.random.default_rng([0, 5]), plan)
    assert torch.equal(batch.a, again.a)
    assert batch.a.shape == batch.b.shape == (60, 1, 32, 32)
    assert not torch.equal(batch.a, tracks.batch(np.random.default_rng([0, 6]), plan).a)
    a, b = (
        nn.functional.normalize(x.flatten(1) - x.flatten(1).mean(1, True))
        for x in (batch.a, batch.b)
    )
    similarity = a @ b.T
    assert similarity.diagonal().median() > 0.8
    assert not (batch.a == batch.b).flatten(1).all(dim=1).any()  # two views, never one twice
    apart = similarity[~batch.is_excluded]
    assert apart.median() < 0.3
    assert batch.is_excluded.diagonal().all()
    assert torch.equal(batch.is_excluded, batch.is_excluded.T)
    assert 0 < int(batch.is_excluded.sum()) - 60 < 600


def test_detector_options_are_the_fast_preset_s_pyramid():
    options = TrackConfig().detector
    assert (options.levels_up, options.levels_down) == (0, 4)
    assert options.factor == DetectorConfig().factor
