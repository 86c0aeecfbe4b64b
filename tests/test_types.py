from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rekd_hloc.types import Features, Keypoints, Matches
from tests.helpers import random_features, random_keypoints, without_shape_checks

FIELDS = ("xy", "scale", "angle", "score")


def rows(keypoints):
    return torch.cat([keypoints.xy, *(getattr(keypoints, f)[:, None] for f in FIELDS[1:])], dim=1)


@given(st.integers(1, 12), st.data())
def test_selecting_keypoints_keeps_rows_together(count, data):
    keypoints = random_keypoints(count)
    chosen = data.draw(st.lists(st.integers(0, count - 1), max_size=12))
    index = torch.tensor(chosen, dtype=torch.int64)
    assert torch.equal(rows(keypoints[index]), rows(keypoints)[index])
    mask = torch.zeros(count, dtype=torch.bool)
    mask[index] = True
    assert torch.equal(rows(keypoints[mask]), rows(keypoints)[mask])
    assert len(keypoints[mask]) == len(set(chosen))


def test_concatenating_keeps_the_order():
    parts = [random_keypoints(3), Keypoints.empty(), random_keypoints(2, seed=1)]
    joined = Keypoints.concatenate(parts)
    assert torch.equal(rows(joined), torch.cat([rows(part) for part in parts]))
    assert len(Keypoints.concatenate([])) == 0


def test_selecting_matches():
    matches = Matches(torch.tensor([[0, 5], [3, 1], [4, 2]]), torch.tensor([0.9, 0.5, -0.1]))
    some = matches[torch.tensor([2, 0])]
    assert some.index.tolist() == [[4, 2], [0, 5]]
    assert torch.equal(some.score, torch.tensor([-0.1, 0.9]))
    assert matches[torch.tensor([False, True, False])].index.tolist() == [[3, 1]]


def test_empty_ones_have_shapes():
    keypoints, matches = Keypoints.empty(), Matches.empty()
    assert len(keypoints) == len(matches) == 0
    assert keypoints.xy.shape == (0, 2)
    assert matches.index.shape == (0, 2)
    assert matches.index.dtype == torch.int64
    features = Features(keypoints, torch.zeros(0, 128), (640, 480))
    assert len(features) == 0


def test_moving_to_a_device_moves_every_tensor():
    features = random_features(4)
    moved = features.to("meta")
    assert moved.descriptors.device.type == "meta"
    assert {getattr(moved.keypoints, name).device.type for name in FIELDS} == {"meta"}
    assert moved.image_size == features.image_size
    matches = Matches(torch.tensor([[0, 1]]), torch.ones(1)).to("meta")
    assert matches.index.device.type == matches.score.device.type == "meta"
    assert features.descriptors.device.type == "cpu"


def test_they_are_frozen_and_compared_by_identity():
    keypoints = random_keypoints(2)
    with pytest.raises(FrozenInstanceError):
        keypoints.angle = torch.zeros(2)
    assert keypoints == keypoints  # noqa: PLR0124
    assert keypoints != random_keypoints(2)


def test_tensors_that_disagree_are_refused():
    with without_shape_checks():
        _check_refusals()


def _check_refusals():
    xy, three, two = torch.zeros(3, 2), torch.zeros(3), torch.zeros(2)
    with pytest.raises(ValueError, match=r"angle must have shape \(3,\) like xy, got \(2,\)"):
        Keypoints(xy=xy, scale=three, angle=two, score=three)
    with pytest.raises(ValueError, match=r"xy must have shape \(keypoint, 2\), got \(3, 3\)"):
        Keypoints(xy=torch.zeros(3, 3), scale=three, angle=three, score=three)
    keypoints = random_keypoints(3)
    with pytest.raises(ValueError, match=r"descriptors must have shape \(3, channel\), got \(2, 8"):
        Features(keypoints, torch.zeros(2, 8), (10, 10))
    with pytest.raises(ValueError, match=r"index must have shape \(match, 2\), got \(2, 3\)"):
        Matches(torch.zeros(2, 3, dtype=torch.int64), two)
    with pytest.raises(ValueError, match=r"score must have shape \(2,\), got \(3,\)"):
        Matches(torch.zeros(2, 2, dtype=torch.int64), three)
