"""Features in hloc's schema: round trips, and files of other programs."""

import os

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Features, Keypoints
from tests.helpers import random_features
from tests.store_helpers import (
    MADE_WITH,
    NAMES,
    assert_same,
    files,
    no_fsync,  # noqa: F401
    plain,
    random_matches,
    write_group,
)


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
        assert {key: text.decode() for key, text in file.attrs.items()} == MADE_WITH


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
