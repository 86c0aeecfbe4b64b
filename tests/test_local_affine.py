"""Affine maps that the neighbours of a match agree on."""

import math
from dataclasses import replace

import numpy as np
import torch

from rekd_hloc.matching.match_frames import MIN_FITTED
from rekd_hloc.refinement.align_patches import similarity_of
from rekd_hloc.refinement.local_affine import local_affine
from rekd_hloc.types import Keypoints
from tests.helpers import random_keypoints

AFFINE = torch.tensor([[1.2, 0.25], [-0.1, 0.8]])


def on_plane(count=120, noise_px=0.0, affine=AFFINE):
    """Keypoints on a plane in two images; frames know the rotation and scale of the map, nearly."""
    a = replace(random_keypoints(count), scale=torch.ones(count))
    generator = torch.Generator().manual_seed(1)
    error = noise_px * torch.randn(count, 2, generator=generator)
    turn = math.atan2(affine[1, 0] - affine[0, 1], affine[0, 0] + affine[1, 1])
    scale = a.scale * torch.linalg.det(affine).sqrt()
    return a, replace(a, xy=a.xy @ affine.T + error, angle=a.angle + turn, scale=scale)


def error_of(maps, affine=AFFINE):
    return (maps - affine).abs().amax(dim=(1, 2))


def test_plane_gives_its_map():
    a, b = on_plane(noise_px=0.5)
    assert error_of(local_affine(a, b)).median() < 0.05
    assert error_of(similarity_of(a, b)).median() > 0.15


def test_wrong_matches_are_left_out():
    a, b = on_plane()
    wrong = torch.arange(0, 120, 3)
    other = random_keypoints(len(wrong), seed=5)
    xy, angle = b.xy.clone(), b.angle.clone()
    xy[wrong], angle[wrong] = other.xy, other.angle
    b = replace(b, xy=xy, angle=angle)
    right = torch.ones(120, dtype=torch.bool)
    right[wrong] = False
    assert error_of(local_affine(a, b)[right]).quantile(0.9) < 0.05


def test_match_without_neighbours_on_a_map_keeps_its_own():
    a, b = random_keypoints(60, seed=1), random_keypoints(60, seed=2)
    maps = local_affine(a, b)
    kept = (maps == similarity_of(a, b)).all(dim=2).all(dim=1)
    assert kept.float().mean() > 0.95
    few = torch.arange(MIN_FITTED)
    assert torch.equal(local_affine(a[few], b[few]), similarity_of(a[few], b[few]))
    assert local_affine(Keypoints.empty(), Keypoints.empty()).shape == (0, 2, 2)


def test_two_planes_keep_apart():
    a, b = on_plane(200)
    left = a.xy[:, 0] < 300
    other = torch.tensor([[0.7, 0.0], [0.0, 1.1]])
    xy = torch.where(left[:, None], b.xy, a.xy @ other.T + 40)
    angle, scale = (torch.where(left, x, y) for x, y in ((b.angle, a.angle), (b.scale, a.scale)))
    maps = local_affine(a, replace(b, xy=xy, angle=angle, scale=scale))
    assert error_of(maps[a.xy[:, 0] < 240]).quantile(0.9) < 0.05
    assert error_of(maps[a.xy[:, 0] > 360], other).quantile(0.9) < 0.05


def test_rotating_and_scaling_either_image_changes_the_maps_alike():
    a, b = on_plane(noise_px=0.5)
    expected = local_affine(a, b)
    angle, factor = 1.1, 1.7
    turn = factor * torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    moved_b = replace(b, xy=b.xy @ turn.T + 9, scale=b.scale * factor, angle=b.angle + angle)
    torch.testing.assert_close(local_affine(a, moved_b), turn @ expected, atol=1e-3, rtol=0)
    moved_a = replace(a, xy=a.xy @ turn.T - 5, scale=a.scale * factor, angle=a.angle + angle)
    back = expected @ torch.linalg.inv(turn)
    torch.testing.assert_close(local_affine(moved_a, b), back, atol=1e-3, rtol=0)


def test_matches_at_one_place():
    a, b = on_plane(40)
    a, b = (replace(k, xy=torch.zeros_like(k.xy)) for k in (a, b))
    assert np.isfinite(local_affine(a, b).numpy()).all()
