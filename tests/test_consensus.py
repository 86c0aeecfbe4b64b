import math
import tracemalloc
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.speed.pretended_gpu import PretendedGpu
from rekd_hloc.config import MatchConfig
from rekd_hloc.geometry import rotation_about, warp_points
from rekd_hloc.matching import match_frames, nearest_matches
from rekd_hloc.matching.consensus import filter_by_consensus, support
from rekd_hloc.matching.match import FALLBACK_RATIO, MIN_CONSENSUS, filter_matches, match
from rekd_hloc.types import Features, Matches
from tests.helpers import moved_keypoints, random_features

CONSENSUS = MatchConfig(filter="consensus")
NUM_RIGHT, NUM_WRONG = 200, 100


def similarity(angle, scale):
    return rotation_about(angle, (320.0, 240.0), scale)


def pair(transform, *, num_right=NUM_RIGHT, num_wrong=NUM_WRONG, noise_px=0.5, seed=0):
    """An image and its transform, and matches of which the last ones are wrong."""
    generator = torch.Generator().manual_seed(seed)
    a = random_features(num_right + num_wrong, seed=seed).keypoints
    b = moved_keypoints(a, transform)
    b = replace(b, xy=b.xy + noise_px * torch.randn(b.xy.shape, generator=generator))
    target = torch.arange(len(a))
    target[num_right:] = target[num_right:].roll(max(1, num_wrong // 3))
    index = torch.stack([torch.arange(len(a)), target], dim=1)
    return a, b, Matches(index, torch.ones(len(a)))


def rates(kept, num_right, num_wrong):
    """Share of the right matches that stay, and of the wrong ones."""
    right = int((kept.index[:, 0] < num_right).sum())
    return right / num_right, (len(kept) - right) / num_wrong


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 1.0), (0.9, 1.5), (math.pi, 0.4), (5.0, 3.0)])
def test_right_matches_stay_and_wrong_ones_go(angle, scale):
    a, b, matches = pair(similarity(angle, scale))
    kept = filter_by_consensus(matches, a, b)
    right, wrong = rates(kept, NUM_RIGHT, NUM_WRONG)
    assert right > 0.98
    assert wrong < 0.05
    assert (kept.score > 0).all()
    assert (kept.score <= 1).all()


def test_right_matches_are_seen_among_three_times_as_many_wrong_ones():
    a, b, matches = pair(similarity(0.7, 1.2), num_right=100, num_wrong=300)
    right, wrong = rates(filter_by_consensus(matches, a, b), 100, 300)
    assert right > 0.9
    assert wrong < 0.1


@pytest.mark.parametrize("moves_a", [True, False])
@pytest.mark.parametrize(("angle", "scale"), [(0.3, 1.0), (math.pi / 2, 2.0), (4.0, 0.3)])
def test_rotating_and_scaling_either_image_changes_nothing(angle, scale, moves_a):
    a, b, matches = pair(similarity(0.5, 1.3), noise_px=2.0)
    share, count = support(matches, a, b)
    change = similarity(angle, scale)
    ends = (moved_keypoints(a, change), b) if moves_a else (a, moved_keypoints(b, change))
    share_after, count_after = support(matches, *ends)
    assert (count_after == count).all()
    assert torch.equal(share_after, share)


def test_the_order_of_matches_and_of_images_changes_nothing():
    a, b, matches = pair(similarity(0.5, 1.3), noise_px=2.0)
    share, count = support(matches, a, b)
    order = torch.randperm(len(matches), generator=torch.Generator().manual_seed(1))
    share_shuffled, count_shuffled = support(matches[order], a, b)
    assert torch.equal(count_shuffled, count[order])
    assert torch.equal(share_shuffled, share[order])
    swapped = Matches(matches.index.flip(1), matches.score)
    kept, kept_swapped = (
        filter_by_consensus(matches, a, b),
        filter_by_consensus(swapped, b, a),
    )
    ours = {tuple(row) for row in kept.index.tolist()}
    theirs = {tuple(row[::-1]) for row in kept_swapped.index.tolist()}
    assert len(ours ^ theirs) <= 0.02 * len(ours)  # maps are fitted in one image


@given(seed=st.integers(0, 1000), spacing_px=st.sampled_from([7.0, 16.0, 60.0]))
@settings(max_examples=10, deadline=None)
def test_the_order_of_matches_at_equal_distances_changes_nothing(seed, spacing_px):
    """Keypoints on a grid, some of them twice, as SIFT's with two angles are."""
    a, b, matches = pair(similarity(math.pi / 2, 1.0), seed=seed, noise_px=0.0)
    xy = (a.xy / spacing_px).round() * spacing_px
    a, b = replace(a, xy=xy), replace(b, xy=warp_points(similarity(math.pi / 2, 1.0), xy).round())
    share, count = support(matches, a, b)
    order = torch.randperm(len(matches), generator=torch.Generator().manual_seed(seed))
    share_shuffled, count_shuffled = support(matches[order], a, b)
    assert torch.equal(count_shuffled, count[order])
    assert torch.equal(share_shuffled, share[order])


def test_a_match_at_the_very_same_place_is_no_support():
    a = random_features(2).keypoints
    many = torch.zeros(40, dtype=torch.int64)
    a = replace(a[many], angle=torch.full((40,), 0.3))
    index = torch.arange(40)[:, None].repeat(1, 2)
    _, count = support(Matches(index, torch.ones(40)), a, a)
    assert (count == 0).all()


def test_the_memory_of_many_matches_is_bounded():
    a, b, matches = pair(similarity(0.5, 1.3), num_right=4000, num_wrong=2000)
    tracemalloc.start()
    try:
        kept = filter_by_consensus(matches, a, b)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(kept) > 3900
    assert peak < 12 * 2**20  # all distances would take 144 MB in float32


def test_two_surfaces_that_move_apart_keep_their_matches():
    a, b, matches = pair(similarity(0.0, 1.0), num_right=300)
    off_plane = (torch.arange(len(a)) < 300) & (a.xy[:, 0] < 200)
    other = moved_keypoints(b, similarity(0.2, 1.15))
    parts = (
        torch.where(off_plane, o, s) for o, s in ((other.scale, b.scale), (other.angle, b.angle))
    )
    xy = torch.where(off_plane[:, None], other.xy + torch.tensor([90.0, -40.0]), b.xy)
    scale, angle = parts
    b = replace(b, xy=xy, scale=scale, angle=angle)
    kept = set(filter_by_consensus(matches, a, b).index[:, 0].tolist())
    members = torch.nonzero(off_plane)[:, 0].tolist()
    assert len(members) > 40
    assert len(kept.intersection(members)) > 0.9 * len(members)


def seen_at_a_slant(*, num_right=300, num_wrong=100, stretch=2.4):
    """Image b shows a plane stretched along y; frames know the rotation and mean scale only."""
    a, b, matches = pair(similarity(0.0, 1.0), num_right=num_right, num_wrong=num_wrong)
    xy = b.xy * torch.tensor([1.0, stretch])
    small = torch.full_like(a.scale, 0.5)
    return replace(a, scale=small), replace(b, xy=xy, scale=small * stretch**0.5), matches


def test_maps_bring_in_what_frames_do_not_predict(monkeypatch):
    a, b, matches = seen_at_a_slant()
    right, wrong = rates(filter_by_consensus(matches, a, b), 300, 100)
    monkeypatch.setattr(match_frames, "MIN_FITTED", 10_000)
    right_by_frames, _ = rates(filter_by_consensus(matches, a, b), 300, 100)
    assert right > 0.98
    assert right_by_frames < 0.7
    assert wrong < 0.05


def test_a_near_miss_goes():
    """Within what frames allow, but off the surface that the others agree on."""
    a, b, matches = pair(similarity(0.5, 1.0), num_wrong=0)
    xy = b.xy.clone()
    missed = torch.arange(0, NUM_RIGHT, 10)
    xy[missed] += 20 * b.scale[missed, None].clamp(min=1.0) * torch.tensor([0.6, 0.8])
    kept = filter_by_consensus(matches, a, replace(b, xy=xy)).index[:, 0]
    assert torch.isin(missed, kept).sum() <= 0.2 * len(missed)
    assert len(kept) >= 0.98 * (NUM_RIGHT - len(missed))


def test_a_small_plane_before_a_large_one_keeps_its_matches():
    """Parallax moves the near plane by more than any neighbour on the far one allows."""
    a, b, matches = pair(similarity(0.0, 1.0), num_right=400)
    is_near = (torch.arange(len(a)) < 400) & (
        (a.xy - torch.tensor([320.0, 240.0])).norm(dim=1) < 90
    )
    xy = torch.where(is_near[:, None], b.xy + torch.tensor([60.0, 0.0]), b.xy)
    kept = set(filter_by_consensus(matches, a, replace(b, xy=xy)).index[:, 0].tolist())
    near, far = (torch.nonzero(m[:400])[:, 0].tolist() for m in (is_near, ~is_near))
    assert 20 < len(near) < 60
    assert len(kept.intersection(near)) > 0.9 * len(near)
    assert len(kept.intersection(far)) > 0.97 * len(far)


def test_scales_that_are_sigmas_do_as_well():
    """SIFT's scale is some other measure of the same size, about twice this package's."""
    a, b, matches = pair(similarity(0.9, 1.5))
    a, b = (replace(k, scale=1.8 * k.scale) for k in (a, b))
    right, wrong = rates(filter_by_consensus(matches, a, b), NUM_RIGHT, NUM_WRONG)
    assert right > 0.98
    assert wrong < 0.1


@pytest.mark.parametrize("num", [0, 1, 2, 3])
def test_few_matches_have_no_support(num):
    a, b, matches = pair(similarity(0.5, 1.3), num_right=num, num_wrong=0)
    assert len(filter_by_consensus(matches, a, b)) == 0


def test_blocks_change_nothing(monkeypatch):
    a, b, matches = pair(similarity(0.5, 1.3), noise_px=2.0)
    share, count = support(matches, a, b)
    monkeypatch.setattr(nearest_matches, "BLOCK", 37)
    share_of_blocks, count_of_blocks = support(matches, a, b)
    assert torch.equal(share, share_of_blocks)
    assert torch.equal(count, count_of_blocks)


def test_unrelated_images_keep_next_to_nothing():
    kept = 0
    for seed in range(10):
        a, b, matches = pair(similarity(0.0, 1.0), num_right=0, num_wrong=300, seed=seed)
        kept += len(filter_by_consensus(matches, a, b))
    assert kept <= 0.02 * 10 * 300


def test_few_isolated_matches_are_left_to_the_ratio_test():
    a = random_features(5)
    features = (
        a,
        Features(moved_keypoints(a.keypoints, similarity(0.4, 1.0)), a.descriptors, a.image_size),
    )
    expected = match(*features, MatchConfig(filter="density", ratio=FALLBACK_RATIO))
    assert 0 < len(expected) < MIN_CONSENSUS
    assert torch.equal(match(*features, CONSENSUS).index, expected.index)


def test_it_filters_the_matches_of_another_matcher():
    a, b, matches = pair(similarity(0.9, 1.5))
    assert torch.equal(
        filter_matches(matches, a, b, CONSENSUS).index, filter_by_consensus(matches, a, b).index
    )


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_matches_on_a_gpu_stay_there(kind):
    a, b, matches = pair(similarity(0.5, 1.3))
    expected = filter_by_consensus(matches, a, b)
    with PretendedGpu(kind):
        kept = filter_matches(matches.to(kind), a.to(kind), b.to(kind), CONSENSUS)
        assert kept.index.device.type == kept.score.device.type == kind
        assert kept.score.dtype == torch.float32
        kept = kept.to("cpu")
    assert torch.equal(kept.index, expected.index)
    assert torch.equal(kept.score, expected.score)


@pytest.mark.parametrize(("field", "value", "words"), [
    ("scale", 0.0, "scale_a must be positive, got 0.0"),
    ("scale", math.inf, "scale_a holds nan or inf"),
    ("angle", math.nan, "angle_a holds nan or inf"),
    ("xy", math.nan, "xy_a holds nan or inf"),
])  # fmt: skip
def test_frames_that_cannot_be_are_refused(field, value, words):
    a, b, matches = pair(similarity(0.0, 1.0))
    wrong = getattr(a, field).clone()
    wrong[0] = value
    with pytest.raises(ValueError, match=words):
        filter_by_consensus(matches, replace(a, **{field: wrong}), b)
