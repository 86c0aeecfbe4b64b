import math
from dataclasses import replace

import h5py
import pytest
import torch

from rekd_hloc.config import MatchConfig
from rekd_hloc.geometry import rotation_about
from rekd_hloc.matching.adalam import match_adalam
from rekd_hloc.matching.match import filter_matches, match
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Features, Keypoints
from tests.helpers import moved_keypoints, random_features

ADALAM = MatchConfig(filter="adalam")
NUM_RIGHT, NUM_WRONG = 200, 100


def moved_pair(angle=0.9, scale=1.5, seed=0):
    """An image and the same image rotated and scaled; the last descriptors match wrongly.

    The keypoints of the wrong matches lie elsewhere in the second image.
    """
    a = random_features(NUM_RIGHT + NUM_WRONG, seed=seed)
    similarity = rotation_about(angle, (320.0, 240.0), scale)
    moved = moved_keypoints(a.keypoints, similarity)
    shuffled = torch.arange(len(a))
    shuffled[NUM_RIGHT:] = shuffled[NUM_RIGHT:].roll(37)
    return a, replace(a, keypoints=moved[shuffled])


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 1.0), (0.9, 1.5), (math.pi, 0.6)])
def test_matches_that_agree_on_rotation_and_scale_stay(angle, scale):
    a, b = moved_pair(angle, scale)
    matches = match_adalam(a, b)
    assert (matches.index[:, 0] == matches.index[:, 1]).all()
    is_right = matches.index[:, 0] < NUM_RIGHT
    assert is_right.sum() > 0.7 * NUM_RIGHT
    assert (~is_right).sum() < 0.1 * NUM_WRONG
    torch.testing.assert_close(matches.score, torch.ones(len(matches)))


def test_a_wrong_angle_or_scale_costs_matches():
    a, b = moved_pair()
    count = len(match_adalam(a, b))
    k = b.keypoints
    generator = torch.Generator().manual_seed(0)
    for wrong in (
        replace(k, angle=torch.rand(len(k), generator=generator) * 2 * math.pi),
        replace(k, scale=torch.exp(4 * torch.rand(len(k), generator=generator))),
    ):
        assert len(match_adalam(a, replace(b, keypoints=wrong))) < 0.5 * count


def test_a_keypoint_is_matched_once():
    a, b = moved_pair()
    doubled = Features(
        Keypoints.concatenate([a.keypoints, a.keypoints[torch.arange(50)]]),
        torch.cat([a.descriptors, a.descriptors[:50]]),
        a.image_size,
    )
    index = match_adalam(doubled, b).index
    assert len(index) > 100
    assert len(index[:, 0].unique()) == len(index[:, 1].unique()) == len(index)


def test_too_few_keypoints_have_no_match():
    empty, one, some = random_features(0), random_features(1), random_features(20)
    for a, b in ((empty, some), (some, empty), (one, some), (some, one), (empty, empty)):
        assert len(match_adalam(a, b)) == 0


def test_it_is_a_choice_of_the_configuration(tmp_path):
    a, b = moved_pair()
    expected = match_adalam(a, b)
    assert match(a, b, ADALAM).index.tolist() == expected.index.tolist()
    with FeatureStore.resume(tmp_path / "f.h5", {}) as store:
        store.write("a.jpg", a)
        store.write("b.jpg", b)
    match_images(tmp_path / "f.h5", tmp_path / "m.h5", [("a.jpg", "b.jpg")], ADALAM)
    with MatchStore(tmp_path / "m.h5") as store:
        index = store.read("a.jpg", "b.jpg").index
        assert sorted(index.tolist()) == sorted(expected.index.tolist())
        assert store.provenance["kornia"]
    with pytest.raises(ValueError, match="ratio must be 1 with adalam"):
        MatchConfig(filter="adalam", ratio=0.9)
    with pytest.raises(ValueError, match="adalam finds matches itself"):
        filter_matches(expected, a.keypoints, b.keypoints, ADALAM)


@pytest.mark.parametrize(
    ("dataset", "word"), [("oris", "without orientation"), ("scales", "without scale")]
)
def test_features_without_angles_or_scales_are_refused_by_name(tmp_path, dataset, word):
    path = tmp_path / "f.h5"
    with FeatureStore.resume(path, {}) as store:
        for name in ("a.jpg", "b.jpg"):
            store.write(name, random_features(20))
    with h5py.File(path, "r+") as file:
        del file["b.jpg"][dataset]
    with pytest.raises(ValueError, match=rf"'b.jpg' in .*f.h5.*{word}.*filter=none"):
        match_images(path, tmp_path / "m.h5", [("a.jpg", "b.jpg")], ADALAM)
    assert not (tmp_path / "m.h5").exists()
