"""HDF5 files with bytes changed, cut off or zeroed: an outcome that a user may meet, in time."""

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Features, Keypoints
from tests import odd_hdf5 as odd
from tests.helpers import random_features
from tests.isolated import call

HOLE_BYTES = 512
"""What a bad sector takes."""
CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6)
FAST = settings(suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=1_000, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Bytes of the files: of features and of matches."""
    folder = tmp_path_factory.mktemp("sound")
    features = odd.write_features(folder / "features.h5")
    matches = odd.write_matches(folder / "matches.h5")
    return features.read_bytes(), matches.read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


def damaged(whole, changes, end, hole):
    """Bytes changed in a head that HDF5 reads first, a hole, and the end cut off."""
    content = bytearray(whole)
    for place, value in changes:
        content[place % min(len(content), 20_000)] = value
    if hole is not None:
        start = hole % len(content)
        content[start : start + HOLE_BYTES] = bytes(min(HOLE_BYTES, len(content) - start))
    return bytes(content[: len(content) if end is None else end % len(content)])


def features_are_tidy(content, folder):
    path = folder / "features.h5"
    path.write_bytes(content)
    for reader in ("read_features", "check"):
        assert call(f"tests.odd_hdf5:{reader}", path).flaw(str(path)) is None


def matches_are_tidy(sound, content, folder):
    features, matches = folder / "features.h5", folder / "matches.h5"
    features.write_bytes(sound[0])
    matches.write_bytes(content)
    assert call("tests.odd_hdf5:read_matches", matches).flaw(str(matches)) is None
    assert call("tests.odd_hdf5:check", features, matches).flaw(str(matches)) is None


@pytest.mark.slow
@FAST
@given(changes=CHANGES, end=st.none() | st.integers(0, 10**6), hole=st.none() | st.integers(0))
@example(changes=[], end=0, hole=None)
@example(changes=[], end=8, hole=None)
@example(changes=[], end=None, hole=0)
@example(changes=[(8, 255)], end=None, hole=None)
def test_damaged_features(changes, end, hole, sound, folder):
    features_are_tidy(damaged(sound[0], changes, end, hole), folder)


@FAST
@given(changes=CHANGES, end=st.none() | st.integers(0, 10**6), hole=st.none() | st.integers(0))
@example(changes=[], end=None, hole=600)
def test_damaged_matches(changes, end, hole, sound, folder):
    matches_are_tidy(sound, damaged(sound[1], changes, end, hole), folder)


@pytest.mark.slow
@LONG
@given(changes=CHANGES, end=st.none() | st.integers(0, 10**6), hole=st.none() | st.integers(0))
def test_features_damaged_a_thousand_times(changes, end, hole, sound, folder):
    features_are_tidy(damaged(sound[0], changes, end, hole), folder)


@pytest.mark.slow
@LONG
@given(changes=CHANGES, end=st.none() | st.integers(0, 10**6), hole=st.none() | st.integers(0))
def test_matches_damaged_a_thousand_times(changes, end, hole, sound, folder):
    matches_are_tidy(sound, damaged(sound[1], changes, end, hole), folder)


@pytest.mark.parametrize("name", ["keypoints", "descriptors", "scores", "scales", "oris"])
def test_a_hole_in_the_data_is_noticed(name, tmp_path):
    path = tmp_path / "features.h5"
    features = random_features(600)
    with FeatureStore.resume(path, {"made": "here"}) as store:
        store.write("a.jpg", features)
    content = path.read_bytes()
    values = stored(features)[name]
    place = content.find(values.tobytes()[1024:1088])
    assert place > 0
    path.write_bytes(content[:place] + bytes(HOLE_BYTES) + content[place + HOLE_BYTES :])
    with FeatureStore(path) as store, pytest.raises(ValueError, match=r"features\.h5"):
        store.read("a.jpg")


def stored(features: Features) -> dict[str, np.ndarray]:
    """The arrays as they are in the file."""
    points: Keypoints = features.keypoints
    return {
        "keypoints": points.xy.numpy(),
        "descriptors": np.ascontiguousarray(features.descriptors.numpy().T),
        "scores": points.score.numpy(),
        "scales": points.scale.numpy(),
        "oris": np.rad2deg(points.angle.numpy().astype(np.float64)).astype(np.float32),
    }
