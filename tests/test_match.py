import itertools
from dataclasses import replace
from typing import get_args

import h5py
import numpy as np
import pytest
import torch

from rekd_hloc import progress
from rekd_hloc.config import MatchConfig, config_hash
from rekd_hloc.matching import match as two_images
from rekd_hloc.matching import match_images as loop
from rekd_hloc.matching import pair_work
from rekd_hloc.matching.match import MATCHERS, NearestMatcher, filter_matches, make_matcher, match
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.matching.nearest import match_nearest
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Features, Keypoints
from tests.helpers import random_features

PROVENANCE = {"config": '{"max_keypoints": 60}', "config_hash": "abc"}
NAMES = ["a.jpg", "b.jpg", "sub/c d.jpg", "empty.jpg"]


def turned_copy(features, turn, seed, num_same=40):
    """The same scene seen turned: shared descriptors, angles off by a turn; the rest is new."""
    other = random_features(len(features), seed=seed)
    angle, descriptors = other.keypoints.angle.clone(), other.descriptors.clone()
    angle[:num_same] = (features.keypoints.angle[:num_same] + turn) % (2 * torch.pi)
    descriptors[:num_same] = features.descriptors[:num_same]
    keypoints = Keypoints(other.keypoints.xy, other.keypoints.scale, angle, other.keypoints.score)
    return Features(keypoints, descriptors, features.image_size)


def make_features():
    a = random_features(60, seed=1)
    b, c = turned_copy(a, 1.0, seed=2), turned_copy(a, 4.0, seed=3)
    empty = Features(Keypoints.empty(), torch.zeros(0, 128), (64, 48))
    return dict(zip(NAMES, (a, b, c, empty), strict=True))


@pytest.fixture
def features_path(tmp_path):
    path = tmp_path / "features.h5"
    with FeatureStore.resume(path, PROVENANCE) as store:
        for name, features in make_features().items():
            store.write(name, features)
    return path


@pytest.fixture
def pairs():
    return list(itertools.combinations(NAMES, 2))


def read_all(path, pairs):
    with MatchStore(path) as store:
        return {pair: store.read(*pair).index.tolist() for pair in pairs}


# ---------------------------------------------------------------- two images


@pytest.mark.parametrize("name", ["none", "paper", "density"])
def test_match_is_neighbours_then_filter(name):
    features = make_features()
    a, b = features["a.jpg"], features["b.jpg"]
    config = MatchConfig(filter=name, ratio=0.99)
    matches = match(a, b, config)
    unfiltered = match_nearest(a.descriptors, b.descriptors, ratio=0.99)
    expected = filter_matches(unfiltered, a.keypoints, b.keypoints, config)
    assert matches.index.tolist() == expected.index.tolist()
    assert {(i, i) for i in range(40)} <= {tuple(row) for row in matches.index.tolist()}
    if name == "none":
        assert len(matches) == len(unfiltered) > 40
    else:
        assert len(matches) < len(unfiltered)


def test_options_reach_the_filter():
    features = make_features()
    a, b = features["a.jpg"], features["b.jpg"]
    angle = b.keypoints.angle.clone()
    angle[:10] = (angle[:10] + 0.2) % (2 * torch.pi)  # 11 degrees
    near = replace(b, keypoints=replace(b.keypoints, angle=angle))
    wide, narrow = match(a, near), match(a, near, MatchConfig(tolerance_deg=8.0))
    assert set(range(40)) <= set(wide.index[:, 0].tolist())
    assert set(range(10, 40)) <= set(narrow.index[:, 0].tolist())
    assert not set(range(10)) & set(narrow.index[:, 0].tolist())
    by_scale = replace(b, keypoints=replace(b.keypoints, scale=a.keypoints.scale * 2))
    same = MatchConfig(scale_tolerance=1.01)
    assert set(range(40)) <= set(match(a, by_scale, same).index[:, 0].tolist())
    assert len(match(a, b, same)) < 20
    # b turned by 1 for half of the shared keypoints, by 3 for the others
    angle = b.keypoints.angle.clone()
    angle[20:40] = (angle[20:40] + 2.0) % (2 * torch.pi)
    two = replace(b, keypoints=replace(b.keypoints, angle=angle))
    assert len(match(a, two)) < 40
    both = match(a, two, MatchConfig(max_modes=2))
    assert set(range(40)) <= set(both.index[:, 0].tolist())


def test_images_without_keypoints_have_no_matches():
    features = make_features()
    for a, b in (("empty.jpg", "a.jpg"), ("a.jpg", "empty.jpg"), ("empty.jpg", "empty.jpg")):
        assert len(match(features[a], features[b])) == 0


def test_a_matcher_is_added_by_one_line(monkeypatch):
    class FirstFive(NearestMatcher):
        def __call__(self, a, b):
            return super().__call__(a, b)[torch.arange(5)]

    assert make_matcher(MatchConfig()) == NearestMatcher(MatchConfig())
    assert set(MATCHERS) == set(get_args(MatchConfig.__annotations__["filter"]))
    monkeypatch.setitem(MATCHERS, "none", FirstFive)
    a = make_features()["a.jpg"]
    assert len(match(a, a, MatchConfig(filter="none"))) == 5
    assert len(match(a, a)) == 60


# ---------------------------------------------------------------- files


def test_every_pair_is_written_as_match_gives_it(features_path, tmp_path, pairs):
    out = tmp_path / "new folder" / "matches.h5"
    asked = [*reversed(pairs), ("b.jpg", "a.jpg"), pairs[0]]  # repeats count once
    summary = match_images(features_path, out, asked)
    listed = [*pairs[:0:-1], ("a.jpg", "b.jpg")]
    assert list(summary.num_matches) == listed
    assert summary.num_resumed == 0
    assert summary.seconds > 0
    found = read_all(out, pairs)
    features = make_features()
    for a, b in pairs:
        expected = match(features[a], features[b])
        assert found[a, b] == expected.index.tolist()
        assert summary.num_matches[a, b] == len(expected)
    assert summary.num_matches["a.jpg", "b.jpg"] >= 40
    assert summary.num_matches["a.jpg", "empty.jpg"] == 0


def test_the_file_is_in_hlocs_form(features_path, tmp_path):
    out = tmp_path / "matches.h5"
    match_images(features_path, out, [("a.jpg", "sub/c d.jpg")])
    with h5py.File(out) as file:
        group = file["a.jpg/sub-c d.jpg"]
        assert group["matches0"].shape == (60,)
        assert list(group["matches0"][:40]) == list(range(40))
        assert float(group["matching_scores0"][0]) == pytest.approx(1.0, abs=1e-3)
        assert file.attrs["config_hash"].decode() == config_hash(MatchConfig())


def test_finished_pairs_are_not_matched_again(features_path, tmp_path, pairs, monkeypatch):
    out = tmp_path / "matches.h5"
    first = match_images(features_path, out, pairs[:2])
    calls = []
    monkeypatch.setattr(
        two_images,
        "match_nearest",
        lambda *args, **options: calls.append(1) or match_nearest(*args),
    )
    reversed_pairs = [(b, a) for a, b in pairs[:2]]
    summary = match_images(features_path, out, [*reversed_pairs, *pairs[2:]])
    assert summary.num_resumed == 2
    assert len(calls) == len(pairs) - 2
    for a, b in pairs[:2]:
        assert summary.num_matches[b, a] == first.num_matches[a, b]
    again = match_images(features_path, out, pairs)
    assert again.num_resumed == len(pairs)
    assert len(calls) == len(pairs) - 2


class InterruptedMatcher(NearestMatcher):
    """Matches three pairs."""

    done = 0

    def __call__(self, a, b):
        if InterruptedMatcher.done == 3:
            raise KeyboardInterrupt
        InterruptedMatcher.done += 1
        return super().__call__(a, b)


def test_an_interrupted_run_keeps_what_is_finished(features_path, tmp_path, pairs):
    out = tmp_path / "matches.h5"
    with pytest.raises(KeyboardInterrupt):
        match_images(features_path, out, pairs, InterruptedMatcher(MatchConfig()))
    with MatchStore(out) as store:
        assert len(store.pairs()) == 3
    summary = match_images(features_path, out, pairs)
    assert summary.num_resumed == 3
    fresh = tmp_path / "fresh.h5"
    match_images(features_path, fresh, pairs)
    assert read_all(out, pairs) == read_all(fresh, pairs)


def test_a_file_of_other_options_is_refused(features_path, tmp_path, pairs):
    out = tmp_path / "matches.h5"
    match_images(features_path, out, pairs)
    assert match_images(features_path, out, pairs, MatchConfig(tolerance_deg=30)).num_resumed == 6
    before = read_all(out, pairs)
    with pytest.raises(ValueError, match=r"filter.*density.*none.*overwrite"):
        match_images(features_path, out, pairs, MatchConfig(filter="none"))
    assert read_all(out, pairs) == before
    options = MatchConfig(filter="none")
    summary = match_images(features_path, out, pairs, options, overwrite=True)
    assert summary.num_resumed == 0
    assert len(read_all(out, pairs)[pairs[0]]) > len(before[pairs[0]])


def test_matches_of_other_features_are_refused(features_path, tmp_path, pairs):
    out = tmp_path / "matches.h5"
    match_images(features_path, out, pairs)
    with FeatureStore.resume(features_path, {"config_hash": "new"}, overwrite=True) as store:
        for name, features in make_features().items():
            store.write(name, features)
    with pytest.raises(ValueError, match=r"features were made with other settings.*overwrite"):
        match_images(features_path, out, pairs)
    assert match_images(features_path, out, pairs, overwrite=True).num_resumed == 0


class CountingStore(FeatureStore):
    """As much of a features file as the cache needs, without a file."""

    def __init__(self):
        self.reads = []

    def read(self, name):
        self.reads.append(name)
        return random_features(4, seed=int(name))


@pytest.mark.parametrize(("num_kept", "most_reads"), [(16, 16), (8, 50), (1, 240)])
def test_images_are_read_few_times_and_memory_is_bounded(num_kept, most_reads, monkeypatch):
    pairs = list(itertools.combinations([str(number) for number in range(16)], 2))
    monkeypatch.setattr(
        pair_work, "CACHE_BYTES", num_kept * pair_work._num_bytes(random_features(4))
    )
    ordered = loop._order_for_cache(pairs)
    assert sorted(ordered) == sorted(pairs)
    store = CountingStore()
    cache = pair_work.FeatureCache(store, torch.device("cpu"))
    for name in itertools.chain.from_iterable(ordered):
        assert torch.equal(cache[name].descriptors, random_features(4, seed=int(name)).descriptors)
        assert len(cache._features) <= num_kept
    # in the order given, a cache of eight images reads 107 times for these 120 pairs
    assert len(store.reads) <= most_reads


def test_an_image_larger_than_the_cache_is_matched(features_path, tmp_path, pairs, monkeypatch):
    monkeypatch.setattr(pair_work, "CACHE_BYTES", 0)
    summary = match_images(features_path, tmp_path / "m.h5", pairs)
    assert summary.num_matches["a.jpg", "b.jpg"] >= 40


def foreign_features(path, **extra):
    """A file as hloc's SuperPoint writes it: no angles, no scales, half precision."""
    with h5py.File(path, "w") as file:
        for name, features in make_features().items():
            group = file.create_group(name)
            group["keypoints"] = features.keypoints.xy.numpy().astype(np.float16)
            group["scores"] = features.keypoints.score.numpy().astype(np.float16)
            group["descriptors"] = features.descriptors.numpy().T.astype(np.float16)
            group["image_size"] = np.array(features.image_size)


def test_features_without_angles_need_the_filter_off(tmp_path, pairs):
    path, out = tmp_path / "foreign.h5", tmp_path / "matches.h5"
    foreign_features(path)
    for name in ("density", "paper"):
        with pytest.raises(ValueError, match=r"'a.jpg' in .*foreign.h5.*filter=none"):
            match_images(path, out, pairs, MatchConfig(filter=name))
    assert not out.exists()
    summary = match_images(path, out, pairs, MatchConfig(filter="none"))
    assert summary.num_matches["a.jpg", "b.jpg"] > 40
    with MatchStore(out) as store:
        assert store.provenance["features_hash"] == "unknown"


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (("a.jpg", "a.jpg"), "'a.jpg' is paired with itself"),
        (("a.jpg", "b.jpeg"), "unknown image 'b.jpeg'; did you mean 'b.jpg'"),
    ],
)
def test_wrong_pairs_are_named_before_anything_is_written(features_path, tmp_path, pair, words):
    with pytest.raises(ValueError, match=words):
        match_images(features_path, tmp_path / "m.h5", [("a.jpg", "b.jpg"), pair])
    assert [entry.name for entry in tmp_path.iterdir()] == ["features.h5"]


def test_other_mistakes_are_named(features_path, tmp_path, pairs):
    out = tmp_path / "m.h5"
    with pytest.raises(ValueError, match="no device 'tpu9'; use auto or cpu"):
        match_images(features_path, out, pairs, device="tpu9")
    with pytest.raises(FileNotFoundError, match=r"none.h5"):
        match_images(tmp_path / "none.h5", out, pairs)
    with pytest.raises(ValueError, match="features and matches would both be"):
        match_images(features_path, tmp_path / "x" / ".." / "features.h5", pairs, overwrite=True)
    assert features_path.exists()
    with FeatureStore.resume(features_path, PROVENANCE) as store:
        long = random_features(5)
        store.write("long.jpg", replace(long, descriptors=long.descriptors * 3))
    with pytest.raises(ValueError, match=r"images 'a.jpg' and 'long.jpg': .*rows of length 1"):
        match_images(features_path, out, [("a.jpg", "long.jpg")])


def test_no_pair_is_no_mistake(features_path, tmp_path):
    summary = match_images(features_path, tmp_path / "m.h5", [])
    assert summary.num_matches == {}
    assert summary.num_resumed == 0


def test_progress_is_told_on_request(features_path, tmp_path, pairs, capsys, monkeypatch):
    monkeypatch.setattr(progress, "PERIOD_S", 0.0)
    match_images(features_path, tmp_path / "quiet.h5", pairs)
    assert capsys.readouterr().err == ""
    match_images(features_path, tmp_path / "shown.h5", pairs, progress=True)
    shown = capsys.readouterr()
    assert "match: 6 of 6 pairs" in shown.err
    assert shown.out == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_on_a_gpu(features_path, tmp_path, pairs):
    match_images(features_path, tmp_path / "cpu.h5", pairs)
    match_images(features_path, tmp_path / "gpu.h5", pairs, device="cuda")
    assert read_all(tmp_path / "cpu.h5", pairs) == read_all(tmp_path / "gpu.h5", pairs)
