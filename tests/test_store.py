"""Round trips, files of other programs, and what a kill, a full disk or other settings do."""

import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rekd_hloc import files as files_module
from rekd_hloc.storage import hdf5_file, journal
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.storage.hdf5_file import Hdf5File
from rekd_hloc.storage.journal import Journal, Record
from rekd_hloc.types import Features, Keypoints, Matches
from tests.helpers import ROOT, random_features

MADE_WITH = {"config": '{"detector": {"border_px": 15, "max": 100}}', "weights": "abc"}
NAMES = ["a.jpg", "sub/a.jpg", "other/a.jpg", "with space.png", "über/straße 日本.jpg"]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Tests survive no power cut, and a busy disk takes a second for each call."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same(found: Features, expected: Features, descriptor_atol: float = 0.0):
    a, b = found.keypoints, expected.keypoints
    for x, y in ((a.xy, b.xy), (a.scale, b.scale), (a.score, b.score)):
        assert x.dtype == torch.float32
        torch.testing.assert_close(x, y, rtol=0, atol=0)
    turn = torch.remainder(a.angle - b.angle + torch.pi, 2 * torch.pi) - torch.pi
    assert turn.abs().max() < 2e-6 if len(b) else len(a) == 0
    assert ((a.angle >= 0) & (a.angle < 2 * torch.pi)).all()
    torch.testing.assert_close(
        found.descriptors, expected.descriptors, rtol=0, atol=descriptor_atol
    )
    assert found.image_size == expected.image_size


def random_matches(count, num_a=60, num_b=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randperm(num_a, generator=generator)[:count].sort().values
    b = torch.randperm(num_b, generator=generator)[:count]
    return Matches(torch.stack([a, b], dim=1), torch.rand(count, generator=generator) * 2 - 1)


def assert_same_matches(found: Matches, expected: Matches):
    assert found.index.tolist() == expected.index.tolist()
    torch.testing.assert_close(found.score, expected.score, rtol=0, atol=2e-7)


# Features: round trip and schema


def test_features_come_back_after_closing_and_before(tmp_path):
    written = {name: random_features(30 + i, seed=i) for i, name in enumerate(NAMES)}
    with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
        for name, features in written.items():
            assert name not in store
            store.write(name, features)
            assert name in store
            assert_same(store.read(name), features)
    with FeatureStore(tmp_path / "f.h5") as store:
        assert store.names() == sorted(NAMES)
        assert store.provenance == MADE_WITH
        assert "sub" not in store
        assert "b.jpg" not in store
        for name, features in written.items():
            assert_same(store.read(name), features)
            assert store.has_orientation(name)
    assert files(tmp_path) == ["f.h5"]


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(0, 12),
    channels=st.integers(1, 9),
    seed=st.integers(0, 2**20),
    name=st.text(st.characters(blacklist_characters="/\0", codec="utf-8"), min_size=1).filter(
        lambda name: name not in (".", "..")
    ),
)
def test_any_features_under_any_name(count, channels, seed, name, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "f.h5"
    generator = torch.Generator().manual_seed(seed)
    keypoints = random_features(count, seed=seed).keypoints
    descriptors = torch.randn(count, channels, generator=generator)
    features = Features(keypoints, descriptors, (seed + 1, 7))
    with FeatureStore.resume(path, {}) as store:
        store.write(f"folder/{name}", features, uncertainty=0.5)
    with FeatureStore(path) as store:
        assert store.names() == [f"folder/{name}"]
        assert_same(store.read(f"folder/{name}"), features)


@pytest.mark.parametrize("count", [0, 1])
def test_few_keypoints(count, tmp_path):
    with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
        store.write("a.jpg", random_features(count))
    with FeatureStore(tmp_path / "f.h5") as store:
        found = store.read("a.jpg")
        assert len(found) == count
        assert found.descriptors.shape == (count, 128)


def test_the_file_has_hlocs_schema(tmp_path):
    """What hloc's readers take out of a file, with h5py alone."""
    features = random_features(20, size=(300, 200))
    with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
        store.write("sub/a.jpg", features, uncertainty=0.75)
    with h5py.File(tmp_path / "f.h5", "r", libver="latest") as file:
        group = file["sub/a.jpg"]
        assert {name: group[name].shape for name in group} == {
            "keypoints": (20, 2),
            "descriptors": (128, 20),
            "scores": (20,),
            "scales": (20,),
            "oris": (20,),
            "image_size": (2,),
        }
        assert group["keypoints"].dtype == group["descriptors"].dtype == np.float32
        assert group["keypoints"].attrs["uncertainty"] == 0.75
        assert tuple(group["image_size"])[::-1] == (200, 300)
        np.testing.assert_array_equal(group["keypoints"], features.keypoints.xy.numpy())
        np.testing.assert_array_equal(group["descriptors"], features.descriptors.T.numpy())
        degrees = np.rad2deg(features.keypoints.angle.double().numpy())
        np.testing.assert_allclose(group["oris"], degrees, atol=1e-4)
        assert dict(file.attrs) == MADE_WITH


def test_angles_are_opencvs_degrees(tmp_path):
    """An edge that brightens downwards points to +y: 90 degrees in OpenCV, a quarter turn here."""
    tiny = torch.tensor(2 * torch.pi)  # rounds up to a whole turn of degrees
    angle = torch.tensor([0.0, torch.pi / 2, torch.pi, -torch.pi / 2, torch.nextafter(tiny, -tiny)])
    keypoints = Keypoints(torch.zeros(5, 2), torch.ones(5), angle, torch.ones(5))
    with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
        store.write("a.jpg", Features(keypoints, torch.ones(5, 1), (9, 9)))
    with h5py.File(tmp_path / "f.h5", "r") as file:
        degrees = file["a.jpg/oris"][()]
    np.testing.assert_allclose(np.mod(degrees + 1, 360) - 1, [0, 90, 180, 270, 0], atol=1e-4)
    assert (degrees < 360).all()


def test_half_descriptors_halve_descriptors_only(tmp_path):
    features = random_features(50, size=(4000, 3000))
    with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH, half_descriptors=True) as store:
        store.write("a.jpg", features)
    with h5py.File(tmp_path / "f.h5", "r") as file:
        kinds = {name: str(file["a.jpg"][name].dtype) for name in file["a.jpg"]}
    assert kinds.pop("descriptors") == "float16"
    assert "float16" not in kinds.values()
    with FeatureStore(tmp_path / "f.h5") as store:
        assert_same(store.read("a.jpg"), features, descriptor_atol=5e-4)


def test_writing_again_replaces(tmp_path):
    for count in (9, 4):
        with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
            store.write("sub/a.jpg", random_features(count))
            store.write("b.jpg", random_features(count))
            store.write("b.jpg", random_features(count + 1))
    with FeatureStore(tmp_path / "f.h5") as store:
        assert [len(store.read(name)) for name in store.names()] == [5, 4]


def test_inputs_are_not_changed_and_arrays_not_shared(tmp_path):
    features = random_features(5)
    before = features.keypoints.angle.clone()
    with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
        store.write("a.jpg", features)
        store.read("a.jpg").keypoints.xy.zero_()
        assert_same(store.read("a.jpg"), features)
    torch.testing.assert_close(features.keypoints.angle, before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["", "/a.jpg", "a//b.jpg", "./a.jpg", "../a.jpg", "a/", "a\0"])
def test_names_that_hdf5_would_change_are_refused(name, tmp_path):
    with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
        with pytest.raises(ValueError, match=r"relative to the image folder, like folder/a\.jpg"):
            store.write(name, random_features(1))
        assert name not in store


def test_names_that_are_no_unicode_are_refused(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
        store.write("b.jpg", random_features(1))
        with pytest.raises(ValueError, match="not UTF-8; rename the file"):
            store.write(name, random_features(1))
        assert name not in store
    with FeatureStore(tmp_path / "f.h5") as store:
        assert name not in store


# Features of other programs


def write_group(path, name, **arrays):
    with h5py.File(path, "a") as file:
        group = file.create_group(name)
        for key, value in arrays.items():
            group.create_dataset(key, data=value)


def plain(count=3, **more):
    """Datasets of a detector without scale and angle, as float16, which is hloc's default."""
    rng = np.random.default_rng(0)
    return {
        "keypoints": rng.uniform(0, 90, (count, 2)).astype(np.float16),
        "descriptors": rng.normal(size=(256, count)).astype(np.float16),
        "image_size": np.array([100, 90]),
        **more,
    }


def test_a_file_without_scale_angle_and_score(tmp_path):
    arrays = plain()
    write_group(tmp_path / "f.h5", "sub/a.jpg", **arrays)
    with FeatureStore(tmp_path / "f.h5") as store:
        assert store.provenance == {}
        assert store.names() == ["sub/a.jpg"]
        assert not store.has_orientation("sub/a.jpg")
        found = store.read("sub/a.jpg")
    assert found.keypoints.scale.tolist() == [1, 1, 1]
    assert found.keypoints.angle.tolist() == [0, 0, 0]
    assert found.keypoints.score.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(found.keypoints.xy, arrays["keypoints"].astype(np.float32))
    assert found.descriptors.shape == (3, 256)
    assert found.descriptors.is_contiguous()
    assert found.image_size == (100, 90)


def test_a_file_of_sift(tmp_path):
    arrays = plain(
        scores=np.arange(3.0),
        scales=np.array([2, 3, 4], np.float16),
        oris=np.array([-90.0, 0.0, 359.5]),
    )
    write_group(tmp_path / "f.h5", "a.jpg", **arrays)
    with FeatureStore(tmp_path / "f.h5") as store:
        assert store.has_orientation("a.jpg")
        found = store.read("a.jpg").keypoints
    np.testing.assert_allclose(np.rad2deg(found.angle.numpy()), [270, 0, 359.5], atol=1e-4)
    assert found.scale.tolist() == [2, 3, 4]
    assert found.score.tolist() == [0, 1, 2]


def test_scores_under_the_other_name_and_extra_columns_and_datasets(tmp_path):
    arrays = plain(keypoint_scores=np.array([3.0, 2, 1]), global_descriptor=np.zeros(7))
    arrays["keypoints"] = np.tile(arrays["keypoints"], (1, 2))
    write_group(tmp_path / "f.h5", "a.jpg", **arrays)
    with FeatureStore(tmp_path / "f.h5") as store:
        found = store.read("a.jpg").keypoints
    assert found.score.tolist() == [3, 2, 1]
    assert found.xy.shape == (3, 2)


def test_groups_that_are_no_images_are_no_names(tmp_path):
    write_group(tmp_path / "f.h5", "global.jpg", global_descriptor=np.zeros(7))
    write_group(tmp_path / "f.h5", "keypoints/a.jpg", **plain())
    with FeatureStore(tmp_path / "f.h5") as store:
        assert store.names() == ["keypoints/a.jpg"]
        assert "global.jpg" not in store


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"descriptors": None}, "has no descriptors"),
        ({"image_size": None}, "has no image_size"),
        ({"descriptors": np.zeros((3, 256))}, r"descriptors of shape \(3, 256\)"),
        ({"keypoints": np.zeros(3)}, r"keypoints have shape \(3,\)"),
        ({"image_size": np.zeros(3)}, "image_size"),
        ({"scales": np.zeros(2)}, r"scales has shape \(2,\) for 3 keypoints"),
    ],
)
def test_an_image_that_lacks_parts_is_refused_by_name(change, message, tmp_path):
    arrays = {key: value for key, value in {**plain(), **change}.items() if value is not None}
    write_group(tmp_path / "f.h5", "sub/a.jpg", **arrays)
    with (
        FeatureStore(tmp_path / "f.h5") as store,
        pytest.raises(ValueError, match=rf"'sub/a.jpg' in .*f\.h5: .*{message}"),
    ):
        store.read("sub/a.jpg")


def test_reading_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*f\.h5$"):
        FeatureStore(tmp_path / "f.h5")
    with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
        store.write("a.jpg", random_features(1))
        with pytest.raises(ValueError, match=r"f\.h5 has no image 'b\.jpg'; extract it first"):
            store.read("b.jpg")
    for content in (b"", b"not HDF5", (tmp_path / "f.h5").read_bytes()[:300]):
        (tmp_path / "g.h5").write_bytes(content)
        for open_it in (FeatureStore, MatchStore, lambda path: FeatureStore.resume(path, {})):
            with pytest.raises(ValueError, match=r"g\.h5 is no HDF5 file, or a damaged one"):
                open_it(tmp_path / "g.h5")
    with pytest.raises(ValueError, match="is a folder"):
        FeatureStore(tmp_path)


# Matches


def test_matches_come_back_in_either_order(tmp_path):
    matches = random_matches(30)
    pairs = [("sub/a.jpg", "b c.jpg"), ("sub/a.jpg", "über/ß.jpg"), ("b c.jpg", "über/ß.jpg")]
    with MatchStore.resume(tmp_path / "m.h5", MADE_WITH) as store:
        for pair in pairs:
            assert pair not in store
            store.write(*pair, matches, 60)
            assert pair in store
            assert pair[::-1] in store
            assert_same_matches(store.read(*pair), matches)
    with MatchStore(tmp_path / "m.h5") as store:
        assert store.pairs() == sorted(pairs)
        assert store.provenance == MADE_WITH
        for pair in pairs:
            assert pair[::-1] in store
            assert_same_matches(store.read(*pair), matches)
            turned = Matches(matches.index.flip(1), matches.score)
            assert_same_matches(store.read(*pair[::-1]), turned)
    assert files(tmp_path) == ["m.h5"]


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 8), num_a=st.integers(8, 20), seed=st.integers(0, 2**20))
def test_any_matches(count, num_a, seed, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "m.h5"
    matches = random_matches(count, num_a=num_a, seed=seed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    with MatchStore.resume(path, {}) as store:
        store.write("a", "b", matches[order], num_a)
    with MatchStore(path) as store:
        assert_same_matches(store.read("a", "b"), matches)


def test_no_match_and_no_keypoint(tmp_path):
    with MatchStore.resume(tmp_path / "m.h5", MADE_WITH) as store:
        store.write("a", "b", Matches.empty(), 7)
        store.write("a", "c", Matches.empty(), 0)
    with MatchStore(tmp_path / "m.h5") as store:
        assert len(store.read("a", "b")) == len(store.read("c", "a")) == 0
        assert store.read("c", "a").index.shape == (0, 2)


def test_the_match_file_has_hlocs_schema(tmp_path):
    matches = Matches(torch.tensor([[1, 4], [3, 0]]), torch.tensor([0.5, -1.0]))
    with MatchStore.resume(tmp_path / "m.h5", MADE_WITH) as store:
        store.write("x/a.jpg", "y/z/b.jpg", matches, 5)
    with h5py.File(tmp_path / "m.h5", "r", libver="latest") as file:
        group = file["x-a.jpg/y-z-b.jpg"]
        assert group["matches0"][()].tolist() == [-1, 4, -1, 0, -1]
        assert group["matches0"].dtype == np.int16
        assert group["matching_scores0"][()].tolist() == [0, 0.75, 0, 0, 0]
        assert [group.attrs[key].decode() for key in ("name0", "name1")] == ["x/a.jpg", "y/z/b.jpg"]


@pytest.mark.parametrize("largest", [32_767, 32_768, 70_000])
def test_more_keypoints_than_16_bits_hold(largest, tmp_path):
    matches = Matches(torch.tensor([[0, largest]]), torch.ones(1))
    with MatchStore.resume(tmp_path / "m.h5", MADE_WITH) as store:
        store.write("a", "b", matches, 1)
    with MatchStore(tmp_path / "m.h5") as store:
        assert store.read("a", "b").index.tolist() == [[0, largest]]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([[5, 0]], "from 0 to 5 in the first image, which has 5 keypoints"),
        ([[0, -1]], "from -1 to 0"),
        ([[1, 2], [1, 3]], "matched twice"),
    ],
)
def test_matches_that_the_form_cannot_hold_are_refused(index, message, tmp_path):
    matches = Matches(torch.tensor(index), torch.ones(len(index)))
    with MatchStore.resume(tmp_path / "m.h5", MADE_WITH) as store:
        with pytest.raises(ValueError, match=rf"pair \('a', 'b'\): .*{message}"):
            store.write("a", "b", matches, 5)
        assert ("a", "b") not in store


def test_names_that_become_one_are_refused_while_and_after_writing(tmp_path):
    with MatchStore.resume(tmp_path / "m.h5", MADE_WITH) as store:
        store.write("a/b.jpg", "c.jpg", random_matches(3), 60)
        with pytest.raises(ValueError, match=r"one name in hloc's form.*rename"):
            store.write("a-b.jpg", "c.jpg", random_matches(4), 60)
    with MatchStore.resume(tmp_path / "m.h5", MADE_WITH) as store:
        assert ("a-b.jpg", "c.jpg") not in store
        with pytest.raises(ValueError, match=r"one name in hloc's form.*rename"):
            store.write("a-b.jpg", "c.jpg", random_matches(4), 60)
        with pytest.raises(ValueError, match=r"no matches of \('a-b\.jpg', 'c\.jpg'\)"):
            store.read("a-b.jpg", "c.jpg")
        assert len(store.read("a/b.jpg", "c.jpg")) == 3


def test_a_pair_is_stored_in_one_direction_only(tmp_path):
    with MatchStore.resume(tmp_path / "m.h5", MADE_WITH) as store:
        store.write("a", "b", random_matches(3), 60)
        with pytest.raises(ValueError, match=r"\('a', 'b'\) already, .*reversed"):
            store.write("b", "a", random_matches(3), 60)
        with pytest.raises(ValueError, match="paired with itself"):
            store.write("a", "a", random_matches(3), 60)
        store.write("a", "b", random_matches(5), 60)
        assert len(store.read("a", "b")) == 5


def test_a_match_file_of_hloc(tmp_path):
    matches, scores = np.array([-1, 2, 0], np.int16), np.array([0, 0.5, 1], np.float16)
    arrays = {"matches0": matches, "matching_scores0": scores}
    write_group(tmp_path / "m.h5", "x-a.jpg/b.jpg", **arrays)
    write_group(tmp_path / "m.h5", "b.jpg_x-c_d.jpg", **arrays)  # its older form
    with MatchStore(tmp_path / "m.h5") as store:
        assert store.pairs() == [("b.jpg", "x-c_d.jpg"), ("x-a.jpg", "b.jpg")]
        names = ["x/a.jpg", "b.jpg", "x/c_d.jpg"]
        assert store.pairs(names) == [("b.jpg", "x/c_d.jpg"), ("x/a.jpg", "b.jpg")]
        assert ("b.jpg", "x/a.jpg") in store
        assert ("x/a.jpg", "x/c_d.jpg") not in store
        found = store.read("x/a.jpg", "b.jpg")
        assert found.index.tolist() == [[1, 2], [2, 0]]
        assert found.score.tolist() == [0, 1]  # hloc's (1 + cosine) / 2
        assert store.read("b.jpg", "x/a.jpg").index.tolist() == [[2, 1], [0, 2]]
        assert store.read("x/c_d.jpg", "b.jpg").index.tolist() == [[2, 1], [0, 2]]
        with pytest.raises(ValueError, match="cannot tell 'x/a.jpg' from 'x-a.jpg'"):
            store.pairs(["x/a.jpg", "x-a.jpg"])


def test_older_names_that_can_be_split_in_two_ways(tmp_path):
    write_group(tmp_path / "m.h5", "a_b_c", matches0=np.zeros(1, int))
    with MatchStore(tmp_path / "m.h5") as store:
        for names in ([], ["a", "b_c", "a_b", "c"]):
            with pytest.raises(ValueError, match="cannot tell the two image names in 'a_b_c'"):
                store.pairs(names)
        assert store.pairs(["a_b", "c", "b"]) == [("a_b", "c")]


def test_damaged_matches_are_refused_by_name(tmp_path):
    short = np.ones(2, np.float16)
    write_group(tmp_path / "m.h5", "a/b", matches0=np.array([40000], int).astype(np.int16))
    write_group(tmp_path / "m.h5", "a/c", matches0=np.zeros(3, int), matching_scores0=short)
    with MatchStore(tmp_path / "m.h5") as store:
        with pytest.raises(ValueError, match=r"pair \('a', 'b'\) in .*index -25536.*16 bits"):
            store.read("a", "b")
        with pytest.raises(ValueError, match=r"\('a', 'c'\).*shape \(3,\), scores \(2,\)"):
            store.read("a", "c")


# Provenance


def test_other_settings_are_refused_and_named(tmp_path):
    with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
        store.write("a.jpg", random_features(3))
    before = (tmp_path / "f.h5").read_bytes()
    other = {"config": '{"detector": {"border_px": 15, "max": 200}}', "weights": "abc", "more": "x"}
    expected = (
        r"f\.h5 was made with other settings: config\.detector\.max 100 there, 200 now; "
        "more absent there, x now; choose another output, or overwrite it"
    )
    with pytest.raises(ValueError, match=expected):
        FeatureStore.resume(tmp_path / "f.h5", other)
    assert (tmp_path / "f.h5").read_bytes() == before
    assert files(tmp_path) == ["f.h5"]
    with FeatureStore.resume(tmp_path / "f.h5", other, overwrite=True) as store:
        assert store.names() == []
        store.write("b.jpg", random_features(3))
    with FeatureStore(tmp_path / "f.h5") as store:
        assert store.names() == ["b.jpg"]
        assert store.provenance == other


def test_a_file_of_another_program_is_not_gone_on_with(tmp_path):
    write_group(tmp_path / "f.h5", "a.jpg", **plain())
    with pytest.raises(ValueError, match=r"made by another program .*overwrite"):
        FeatureStore.resume(tmp_path / "f.h5", MADE_WITH)


def interrupted(path):
    """What a kill leaves: the journal, and no file or the old one."""
    store = FeatureStore.resume(path, MADE_WITH)
    store.write("killed.jpg", random_features(4))
    store._file.release()


def test_an_interrupted_run_with_other_settings_is_refused_too(tmp_path):
    interrupted(tmp_path / "f.h5")
    with pytest.raises(ValueError, match="weights abc there, new now"):
        FeatureStore.resume(tmp_path / "f.h5", {**MADE_WITH, "weights": "new"})
    with pytest.raises(FileNotFoundError, match="was interrupted: let it go on first"):
        FeatureStore(tmp_path / "f.h5")
    with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
        assert store.names() == ["killed.jpg"]
        assert len(store.read("killed.jpg")) == 4


def test_an_interrupted_run_that_wrote_nothing_refuses_nothing(tmp_path):
    FeatureStore.resume(tmp_path / "f.h5", MADE_WITH)._file.release()
    assert files(tmp_path) == ["f.h5.journal"]
    with FeatureStore.resume(tmp_path / "f.h5", {"weights": "new"}) as store:
        assert store.provenance == {"weights": "new"}
    with FeatureStore(tmp_path / "f.h5") as store:
        assert store.names() == []
        assert store.provenance == {"weights": "new"}


def test_a_reader_sees_what_an_interrupted_run_added(tmp_path):
    with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
        store.write("a.jpg", random_features(3))
    interrupted(tmp_path / "f.h5")
    with FeatureStore(tmp_path / "f.h5") as store:
        assert store.names() == ["a.jpg", "killed.jpg"]
        assert len(store.read("killed.jpg")) == 4
        with pytest.raises(ValueError, match="open it with resume"):
            store.write("b.jpg", random_features(1))
    assert (tmp_path / "f.h5.journal").exists()


def test_overwriting_forgets_an_interrupted_run(tmp_path):
    interrupted(tmp_path / "f.h5")
    with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH, overwrite=True) as store:
        assert store.names() == []


def test_an_error_in_the_block_keeps_what_was_written(tmp_path):
    store = FeatureStore.resume(tmp_path / "f.h5", MADE_WITH)
    store.write("a.jpg", random_features(3))
    with pytest.raises(RuntimeError, match="stop"), store:
        raise RuntimeError("stop")
    with FeatureStore(tmp_path / "f.h5") as store:
        assert store.names() == ["a.jpg"]


def test_closing_twice_and_without_change_leaves_the_file_alone(tmp_path):
    with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
        store.write("a.jpg", random_features(3))
    before = (tmp_path / "f.h5").stat()
    store.close()
    with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
        assert "a.jpg" in store
    assert (tmp_path / "f.h5").stat().st_mtime_ns == before.st_mtime_ns
    assert files(tmp_path) == ["f.h5"]


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "f.h5").symlink_to(tmp_path / "disk" / "real.h5")
    for name in ("a.jpg", "b.jpg"):
        with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
            store.write(name, random_features(2))
    assert (tmp_path / "f.h5").is_symlink()
    with FeatureStore(tmp_path / "disk" / "real.h5") as store:
        assert store.names() == ["a.jpg", "b.jpg"]


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_two_writers_of_one_file_are_refused(tmp_path):
    with (
        FeatureStore.resume(tmp_path / "f.h5", MADE_WITH),
        pytest.raises(OSError, match=r"f\.h5\.journal is being written by another process"),
    ):
        FeatureStore.resume(tmp_path / "f.h5", MADE_WITH)


# Kills


def small_record(number):
    rng = np.random.default_rng(number)
    arrays = {"keypoints": rng.random((number, 2)), "name": np.array([number])}
    return Record(f"sub/{number}.jpg", arrays, {"keypoints": {"uncertainty": 0.5}})


def test_a_journal_cut_anywhere_holds_the_records_before(tmp_path):
    path = tmp_path / "whole.journal"
    whole = Journal.resume(path, MADE_WITH)
    ends = [whole.size()]
    for number in range(4):
        whole.append(small_record(number))
        ends.append(whole.size())
    whole.close()
    content = path.read_bytes()
    assert len(content) == ends[-1]
    cut = tmp_path / "cut.journal"
    for length in range(0, len(content), 3):
        cut.write_bytes(content[:length])
        resumed = Journal.resume(cut, MADE_WITH)
        expected = sum(end <= length for end in ends[1:])
        assert list(resumed) == [f"sub/{number}.jpg" for number in range(expected)]
        resumed.append(small_record(9))
        resumed.close()
        again = Journal(cut)
        assert again.provenance == MADE_WITH
        assert len(again) == expected + 1
        for number in (*range(expected), 9):
            found, written = again.read(f"sub/{number}.jpg"), small_record(number)
            assert found.attrs == written.attrs
            for name, array in written.arrays.items():
                np.testing.assert_array_equal(found.arrays[name], array)


def test_a_journal_with_a_damaged_record_ends_before_it(tmp_path):
    path = tmp_path / "a.journal"
    with_two = Journal.resume(path, MADE_WITH)
    with_two.append(small_record(5))
    start = with_two.size()
    with_two.append(small_record(6))
    with_two.close()
    content = bytearray(path.read_bytes())
    content[start + 200] ^= 1
    path.write_bytes(content)
    assert list(Journal(path)) == ["sub/5.jpg"]


def test_a_file_that_is_no_journal_is_left_alone(tmp_path):
    (tmp_path / "f.h5.journal").write_text("my diary")
    with pytest.raises(ValueError, match="no journal of this program; move it elsewhere"):
        FeatureStore.resume(tmp_path / "f.h5", MADE_WITH)
    assert (tmp_path / "f.h5.journal").read_text() == "my diary"


WRITER = """
import itertools, sys
from pathlib import Path
import numpy as np
from rekd_hloc.storage.hdf5_file import Hdf5File
from rekd_hloc.storage.journal import Record

path, first = Path(sys.argv[1]), int(sys.argv[2])
for start in itertools.count(first, 4):
    file = Hdf5File.resume(path, {"made": "here"})
    for number in range(start, start + 4):
        values = np.full(20_000 + number, number)
        file.append(Record(f"sub/{number}.jpg", {"keypoints": values, "last": values[:9]}))
        print(number, flush=True)
    file.close()
"""


def test_a_killed_writer_loses_nothing_that_it_reported(tmp_path):
    """SIGKILL at a random moment of appending or closing, several times, going on each time."""
    path, rng, done = tmp_path / "f.h5", random.Random(0), -1
    for _ in range(6):
        command = [sys.executable, "-c", WRITER, str(path), str(done + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as writer:
            for _ in range(rng.randint(1, 9)):
                done = int(writer.stdout.readline())
            time.sleep(rng.uniform(0, 0.02))
            writer.send_signal(signal.SIGKILL)
            done = max([done, *map(int, writer.stdout.read().split())])
        if path.exists():
            with h5py.File(path, "r") as merged:
                assert all(set(group) == {"keypoints", "last"} for group in merged["sub"].values())
        file = Hdf5File.resume(path, {"made": "here"})
        found = file.groups("keypoints")
        assert {f"sub/{number}.jpg" for number in range(done + 1)} <= set(found)
        for group in found:
            number = int(group[4:-4])
            record = file.read(group, ("keypoints", "last"))
            assert record.arrays["keypoints"].tolist() == [number] * (20_000 + number)
            assert record.arrays["last"].tolist() == [number] * 9
        file.release()
    with_all = Hdf5File.resume(path, {"made": "here"})
    with_all.close()
    assert files(tmp_path) == ["f.h5"]


@pytest.mark.parametrize("moment", ["write", "rename", "remove"])
def test_a_kill_at_each_step_of_closing(moment, tmp_path, monkeypatch):
    path = tmp_path / "f.h5"
    with FeatureStore.resume(path, MADE_WITH) as store:
        store.write("a.jpg", random_features(3))
    store = FeatureStore.resume(path, MADE_WITH)
    store.write("b.jpg", random_features(4))
    folder = tmp_path / "after_kill"

    def copy(*_):
        if not folder.exists():  # the state of the disk at this moment is what a kill leaves
            folder.mkdir()
            for file in tmp_path.glob("f.h5*"):
                shutil.copy(file, folder)

    steps = {"write": (hdf5_file, "write_group"), "rename": (files_module, "sync")}
    place, name = steps.get(moment, (Journal, "remove"))
    real = getattr(place, name)
    monkeypatch.setattr(place, name, lambda *args: (copy(), real(*args))[1])
    store.close()
    left = {"f.h5", "f.h5.journal"} | ({"f.h5.tmp"} if moment != "remove" else set())
    assert {file.name for file in folder.iterdir()} == left
    with FeatureStore.resume(folder / "f.h5", MADE_WITH) as resumed:
        assert resumed.names() == ["a.jpg", "b.jpg"]
        assert [len(resumed.read(name)) for name in resumed.names()] == [3, 4]
    assert files(folder) == ["f.h5"]


# Full disks and folders that cannot be written


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def assert_goes_on(path, names):
    with FeatureStore.resume(path, MADE_WITH) as store:
        assert store.names() == names
    with FeatureStore(path) as store:
        assert [len(store.read(name)) for name in names] == [5] * len(names)
    assert files(path.parent) == [path.name]


def test_a_full_disk_while_writing(tmp_path, monkeypatch):
    class FullAfter:
        """A file on a disk that has room for so many bytes more."""

        def __init__(self, file, room):
            self.file, self.room = file, room

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            if self.room == 0:
                full()
            written = self.file.write(data[: self.room])
            self.room -= written
            return written

    path = tmp_path / "f.h5"
    store = FeatureStore.resume(path, MADE_WITH)
    store.write("a.jpg", random_features(5))
    inner = store._file._journal
    inner._file = FullAfter(inner._file, room=999)
    with pytest.raises(
        OSError, match=r"no space left for .*f\.h5\.journal; free some.* goes on"
    ) as caught:
        store.write("b.jpg", random_features(5))
    assert caught.value.errno == errno.ENOSPC
    assert store.names() == ["a.jpg"]
    store._file.release()
    assert files(tmp_path) == ["f.h5.journal"]
    assert_goes_on(path, ["a.jpg"])


@pytest.mark.parametrize("step", ["_reserve", "write_group", "sync"])
@pytest.mark.parametrize("is_new", [True, False])
def test_a_full_disk_while_closing(step, is_new, tmp_path, monkeypatch):
    path = tmp_path / "f.h5"
    names = ["b.jpg"] if is_new else ["a.jpg", "b.jpg"]
    for name in names[:-1]:
        with FeatureStore.resume(path, MADE_WITH) as store:
            store.write(name, random_features(5))
    store = FeatureStore.resume(path, MADE_WITH)
    store.write("b.jpg", random_features(5))
    with monkeypatch.context() as patch:
        patch.setattr(files_module if step == "sync" else hdf5_file, step, full)
        with pytest.raises(
            OSError, match=r"no space left for .*f\.h5; free some space; all that .* is in"
        ):
            store.close()
    assert files(tmp_path) == ["f.h5"] * (not is_new) + ["f.h5.journal"]
    assert_goes_on(path, names)


def test_space_is_reserved_before_hdf5_can_run_out_of_it(tmp_path, monkeypatch):
    """A full disk inside HDF5 ends the process, so what is reserved must always be enough."""
    sizes = []
    real = hdf5_file._reserve

    def reserve(path, num_bytes):
        real(path, num_bytes)
        sizes.append(path.stat().st_size)

    monkeypatch.setattr(hdf5_file, "_reserve", reserve)
    with MatchStore.resume(tmp_path / "m.h5", MADE_WITH) as store:
        for a, b in itertools.combinations(range(25), 2):
            store.write(f"{a}/{'long ' * 20}.jpg", f"{b}.jpg", Matches.empty(), 1)
    with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
        for i in range(20):
            store.write(f"{i}.jpg", random_features(2 * i))
    assert sizes[0] >= (tmp_path / "m.h5").stat().st_size
    assert sizes[1] >= (tmp_path / "f.h5").stat().st_size


def test_no_room_to_reserve(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5_file, "FILE_BYTES", 1 << 60)
    store = FeatureStore.resume(tmp_path / "f.h5", MADE_WITH)
    store.write("a.jpg", random_features(5))
    with pytest.raises(OSError, match="no space left"):
        store.close()
    monkeypatch.undo()
    assert_goes_on(tmp_path / "f.h5", ["a.jpg"])


def test_a_file_system_that_cannot_reserve_is_asked_how_much_is_free(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    (tmp_path / "a").touch()
    hdf5_file._reserve(tmp_path / "a", 5)
    assert (tmp_path / "a").stat().st_size in (0, 5)
    monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    hdf5_file._reserve(tmp_path / "a", 1)
    with pytest.raises(OSError, match="No space left"):
        hdf5_file._reserve(tmp_path / "a", 1 << 60)


def test_the_error_of_the_block_comes_first(tmp_path, monkeypatch, caplog):
    store = FeatureStore.resume(tmp_path / "f.h5", MADE_WITH)
    monkeypatch.setattr(hdf5_file, "_reserve", full)
    store.write("a.jpg", random_features(5))
    with pytest.raises(RuntimeError, match="first"), store:
        raise RuntimeError("first")
    assert "no space left" in caplog.text


@pytest.mark.parametrize("is_file_there", [True, False])
def test_a_folder_that_cannot_be_written(is_file_there, tmp_path, monkeypatch):
    if is_file_there:
        with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
            store.write("a.jpg", random_features(5))
    before = files(tmp_path)
    real = journal.Path.open

    def read_only(path, mode="r", *args, **options):
        if set(mode) & set("aw+"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, mode, *args, **options)

    monkeypatch.setattr(journal.Path, "open", read_only)
    message = r"cannot write .*f\.h5\.journal: Permission denied; choose another output"
    with pytest.raises(PermissionError, match=message):
        FeatureStore.resume(tmp_path / "f.h5", MADE_WITH)
    assert files(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_read_only_folder_and_a_read_only_file(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with FeatureStore.resume(folder / "f.h5", MADE_WITH) as store:
        store.write("a.jpg", random_features(5))
    (folder / "f.h5").chmod(0o444)
    with pytest.raises(PermissionError, match="choose another output"):
        FeatureStore.resume(folder / "f.h5", MADE_WITH)
    folder.chmod(0o555)
    with pytest.raises(PermissionError, match="choose another output"):
        FeatureStore.resume(folder / "g.h5", MADE_WITH)
    folder.chmod(0o755)


def test_an_output_in_a_file_instead_of_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write .*f\.h5: .*; choose another output"):
        FeatureStore.resume(tmp_path / "file" / "f.h5", MADE_WITH)


def test_a_damaged_file_that_cannot_be_added_to_keeps_the_journal(tmp_path, monkeypatch):
    path = tmp_path / "f.h5"
    with FeatureStore.resume(path, MADE_WITH) as store:
        store.write("a.jpg", random_features(5))
    store = FeatureStore.resume(path, MADE_WITH)
    store.write("b.jpg", random_features(5))

    def damaged(*_):
        raise RuntimeError("incorrect metadata checksum")

    with monkeypatch.context() as patch:
        patch.setattr(hdf5_file, "write_group", damaged)
        with pytest.raises(ValueError, match=r"f\.h5 is damaged .*checksum.*; move it away"):
            store.close()
    path.unlink()
    assert_goes_on(path, ["b.jpg"])


# The real hloc


@pytest.mark.hloc
def test_hloc_reads_our_files_and_we_read_hlocs(tmp_path):
    pytest.importorskip("hloc")
    from hloc.match_features import writer_fn
    from hloc.utils.io import get_keypoints, get_matches, list_h5_names

    features, matches = random_features(60), random_matches(30)
    with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
        for name in NAMES:
            store.write(name, features, uncertainty=0.5)
    assert sorted(list_h5_names(tmp_path / "f.h5")) == sorted(NAMES)
    keypoints, uncertainty = get_keypoints(tmp_path / "f.h5", NAMES[-1], return_uncertainty=True)
    np.testing.assert_array_equal(keypoints, features.keypoints.xy.numpy())
    assert uncertainty == 0.5
    with MatchStore.resume(tmp_path / "m.h5", MADE_WITH) as store:
        store.write("x/a.jpg", "b.jpg", matches, 60)
    for pair, index in (
        (("x/a.jpg", "b.jpg"), matches.index),
        (("b.jpg", "x/a.jpg"), matches.index.flip(1)),
    ):
        found, scores = get_matches(tmp_path / "m.h5", *pair)
        np.testing.assert_array_equal(found, index.numpy())
        np.testing.assert_allclose(2 * scores - 1, matches.score.numpy(), atol=1e-6)
    partner = torch.full((1, 60), -1)
    partner[0, matches.index[:, 0]] = matches.index[:, 1]
    answer = {"matches0": partner, "matching_scores0": torch.ones(1, 60)}
    for path in (tmp_path / "m.h5", tmp_path / "new.h5"):  # hloc adds to our file, and to its own
        writer_fn(("x-c.jpg/b.jpg", answer), path)
        with MatchStore(path) as store:
            assert ("x/c.jpg", "b.jpg") in store.pairs(["x/c.jpg", "x/a.jpg", "b.jpg"])
            assert store.read("x/c.jpg", "b.jpg").index.tolist() == matches.index.tolist()
    with MatchStore.resume(tmp_path / "m.h5", MADE_WITH) as store:
        store.write("x/d.jpg", "b.jpg", matches, 60)
    assert len(get_matches(tmp_path / "m.h5", "x/c.jpg", "b.jpg")[0]) == 30
    assert len(get_matches(tmp_path / "m.h5", "x/d.jpg", "b.jpg")[0]) == 30
