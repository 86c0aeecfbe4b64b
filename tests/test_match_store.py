"""Matches in hloc's schema: round trips, names, and files of hloc."""

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rekd_hloc.storage.features import MatchStore
from rekd_hloc.types import Matches
from tests.store_helpers import (
    MADE_WITH,
    assert_same_matches,
    files,
    no_fsync,  # noqa: F401
    random_matches,
    write_group,
)


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
