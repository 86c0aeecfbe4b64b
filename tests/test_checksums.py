"""Damage on the disk: every hole in what was written shows, and the image is named."""

import h5py
import numpy as np
import pytest

from rekd_hloc.cli.main import main
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.storage.hdf5_writing import COMPACT_BYTES, has_checksum
from rekd_hloc.storage.validate import check_files
from rekd_hloc.types import Matches
from tests.helpers import random_features
from tests.store_helpers import (
    MADE_WITH,
    no_fsync,  # noqa: F401
    random_matches,
)

NAMES = [f"{number}.jpg" for number in range(4)]
HOLE_BYTES = 512


@pytest.fixture
def features(tmp_path):
    path = tmp_path / "f.h5"
    with FeatureStore.resume(path, MADE_WITH) as store:
        for seed, name in enumerate(NAMES):
            store.write(name, random_features((0, 5, 300, 1500)[seed], seed=seed))
    return path


@pytest.fixture
def matches(tmp_path):
    path = tmp_path / "m.h5"
    with MatchStore.resume(path, MADE_WITH) as store:
        store.write("1.jpg", "2.jpg", random_matches(4, 5, 300), 5)
        store.write("2.jpg", "3.jpg", random_matches(200, 300, 1500), 300)
        store.write("3.jpg", "0.jpg", Matches.empty(), 1500)
    return path


def every_dataset(path):
    found = {}

    def note(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item[()], has_checksum(item), item.chunks

    with h5py.File(path) as file:
        file.visititems(note)
    return found


def test_all_that_is_written_carries_a_checksum(features, matches):
    kinds = set()
    for path in (features, matches):
        for array, is_safe, chunks in every_dataset(path).values():
            assert is_safe
            assert (chunks is not None) == (array.nbytes > COMPACT_BYTES)
            kinds.add(chunks is None)
    assert kinds == {True, False}


@pytest.mark.parametrize("name", ["keypoints", "descriptors", "scores", "scales", "oris"])
@pytest.mark.parametrize("value", [0, 255])
def test_damage_names_the_image_when_it_is_read_and_when_it_is_checked(name, value, features):
    content = bytearray(features.read_bytes())
    with h5py.File(features) as file:
        values = file["3.jpg"][name][()].tobytes()
    place = bytes(content).find(values[2048:2112])
    content[place : place + HOLE_BYTES] = bytes([value]) * HOLE_BYTES
    features.write_bytes(content)
    with FeatureStore(features) as store:
        with pytest.raises(ValueError, match=r"f\.h5: '3\.jpg' cannot be read: .*checksum fails"):
            store.read("3.jpg")
        assert len(store.read("2.jpg")) == 300
    for deep in (False, True):
        errors = [issue for issue in check_files(features, deep=deep) if issue.level == "error"]
        assert [issue.place for issue in errors] == ["f.h5: 3.jpg"]
        assert f"`{name}` is damaged: its checksum fails" in errors[0].message


def is_noticed(path, whole):
    """Whether reading a damaged file is refused, or gives what was written."""
    try:
        with FeatureStore(path) as store:
            if store.provenance != whole[1]:
                return True
            if store.names() != list(whole[0]):
                return False
            for name, (keypoints, descriptors) in whole[0].items():
                found = store.read(name)
                if not (
                    np.array_equal(found.keypoints.xy, keypoints)
                    and np.array_equal(found.descriptors, descriptors)
                ):
                    return False
    except ValueError:
        return True
    return True


def test_no_hole_anywhere_gives_other_values(features):
    with FeatureStore(features) as store:
        read = {name: store.read(name) for name in store.names()}
        whole = {n: (f.keypoints.xy, f.descriptors) for n, f in read.items()}, store.provenance
    content = features.read_bytes()
    places = np.random.default_rng(0).integers(0, len(content), 20)
    for place in [*places.tolist(), *range(0, 20_000, 2_000)]:
        damaged = bytearray(content)
        damaged[place : place + HOLE_BYTES] = bytes(min(HOLE_BYTES, len(content) - place))
        features.write_bytes(damaged)
        assert is_noticed(features, whole), f"a hole at {place} is read as values"


def test_a_deep_check_names_all_that_is_damaged_and_what_has_no_checksum(
    features, matches, tmp_path, capsys
):
    with h5py.File(tmp_path / "old.h5", "w") as file, h5py.File(features) as new:
        for name in NAMES:
            for key, dataset in new[name].items():
                file[f"{name}/{key}"] = dataset[()]
        file["3.jpg/more"] = np.zeros(9)
    assert main(["check", "--deep", str(tmp_path / "old.h5")]) == 0
    assert "datasets carry no checksum: another program or" in capsys.readouterr().out
    assert main(["check", "--deep", str(features), str(matches)]) == 0
    shown = capsys.readouterr().out
    assert "every byte of 24 datasets was read; all carry checksums" in shown
    content = bytearray(features.read_bytes())
    for name in ("2.jpg", "3.jpg"):
        with h5py.File(features) as file:
            values = file[name]["descriptors"][()].tobytes()
        place = bytes(content).find(values[9_000:9_064])
        content[place] ^= 1
    features.write_bytes(content)
    assert main(["check", "--deep", str(features)]) == 1
    shown = capsys.readouterr().out
    assert "f.h5: 2.jpg" in shown
    assert "f.h5: 3.jpg" in shown


def test_a_deep_check_reads_what_nothing_else_reads(features):
    with h5py.File(features, "a") as file:
        file["2.jpg"].create_dataset("more", data=np.arange(9_000.0), fletcher32=True, chunks=True)
    content = bytearray(features.read_bytes())
    place = bytes(content).find(np.arange(100.0, 110.0).tobytes())
    content[place] ^= 1
    features.write_bytes(content)
    assert not [issue for issue in check_files(features) if issue.level == "error"]
    errors = [issue for issue in check_files(features, deep=True) if issue.level == "error"]
    assert [issue.place for issue in errors] == ["f.h5: 2.jpg"]


def test_programs_that_add_to_the_file_find_it_open_after_they_died(features):
    """As hloc does; a newer form of file would stay locked after a crash."""
    with h5py.File(features, "a") as file:
        assert file.id.get_create_plist().get_version()[0] < 3
        file["more.jpg/keypoints"] = np.zeros((1, 2))
