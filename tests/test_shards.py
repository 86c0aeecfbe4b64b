"""Work in parts: each machine does a shard, and the merged file is that of one machine."""

import cv2
import numpy as np
import pytest

from rekd_hloc.cli.main import main
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.matching.pairs import exhaustive_pairs
from rekd_hloc.shards import take_shard
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.storage.merging import merge_files
from tests.helpers import random_features, textured_image
from tests.sift_extractor import SiftExtractor

NAMES = [f"sub/{number}.jpg" for number in range(5)]
MADE_WITH = {"config": "{}", "config_hash": "abc"}


def write(path, names, made_with=MADE_WITH):
    with FeatureStore.resume(path, made_with) as store:
        for name in names:
            store.write(
                name, random_features(30, seed=NAMES.index(name)), attributes={"note": name}
            )
    return path


def content(path, kind):
    """All that a file holds, by the names of its images or pairs."""
    with kind(path) as store:
        keys = [(name,) for name in store.names()] if kind is FeatureStore else store.pairs()
        return {key: store.read_record(*key) for key in keys}, store.provenance


def assert_equal(one, two, kind):
    (first, made_with), (second, also_with) = content(one, kind), content(two, kind)
    assert made_with == also_with
    assert list(first) == list(second)
    for key, record in first.items():
        other = second[key]
        assert record.attrs == other.attrs
        assert list(record.arrays) == list(other.arrays)
        for dataset, values in record.arrays.items():
            np.testing.assert_array_equal(values, other.arrays[dataset])
            assert values.dtype == other.arrays[dataset].dtype


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_shards_are_all_of_it_once(count):
    items = list(range(7))
    shards = [take_shard(items, f"{number}/{count}") for number in range(1, count + 1)]
    assert sum(shards, []) == items
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert take_shard(items, None) == items


@pytest.mark.parametrize("shard", ["0/8", "9/8", "3", "3/0", "-1/8", "a/b", "3/8/9", ""])
def test_what_is_no_shard_is_named(shard):
    with pytest.raises(ValueError, match=f"shard must be like 3/8, from 1/8 to 8/8, got '{shard}'"):
        take_shard([1, 2], shard)


def test_merged_files_are_those_of_one_machine(tmp_path):
    whole = write(tmp_path / "whole.h5", NAMES)
    parts = [
        write(tmp_path / f"part{number}.h5", take_shard(NAMES, f"{number}/3"))
        for number in (1, 2, 3)
    ]
    merged = tmp_path / "merged.h5"
    summary = merge_files(parts[:2], merged)
    assert (summary.kind, summary.num_all, summary.num_new) == ("features", 3, 3)
    summary = merge_files(parts, merged)
    assert (summary.num_all, summary.num_new) == (5, 2)
    assert_equal(whole, merged, FeatureStore)

    assert merge_files(parts, merged).num_replaced == 0

    pairs = exhaustive_pairs(NAMES)
    match_images(whole, tmp_path / "matches.h5", pairs)
    shards = [tmp_path / f"matches{number}.h5" for number in (1, 2)]
    for number, path in enumerate(shards, start=1):
        match_images(merged, path, take_shard(pairs, f"{number}/2"))
    assert merge_files(shards, tmp_path / "joined.h5").num_all == len(pairs)
    assert_equal(tmp_path / "matches.h5", tmp_path / "joined.h5", MatchStore)


def test_what_a_part_has_made_anew_takes_the_place_of_the_old(tmp_path):
    parts = [write(tmp_path / f"{n}.h5", NAMES[n : n + 2]) for n in (0, 2)]
    merged = tmp_path / "merged.h5"
    merge_files(parts, merged)
    with FeatureStore.resume(parts[1], MADE_WITH) as store:
        store.write(NAMES[2], random_features(12, seed=9))
    summary = merge_files(parts, merged)
    assert (summary.num_all, summary.num_new, summary.num_replaced) == (4, 0, 1)
    with FeatureStore(merged) as store:
        assert [len(store.read(name)) for name in NAMES[:4]] == [30, 30, 12, 30]
    older = write(tmp_path / "older.h5", [NAMES[2]])
    assert merge_files([parts[1], older], merged).num_replaced == 0  # the first part counts


def test_what_cannot_be_merged_is_named(tmp_path):
    one = write(tmp_path / "one.h5", NAMES[:2])
    other = write(tmp_path / "other.h5", NAMES[2:], {"config": '{"a": 1}', "config_hash": "def"})
    matches = tmp_path / "matches.h5"
    match_images(one, matches, exhaustive_pairs(NAMES[:2]))
    out = tmp_path / "out.h5"
    with pytest.raises(ValueError, match="one.h5 and .*other.h5 were made with different settings"):
        merge_files([one, other], out)
    with pytest.raises(ValueError, match="is both a part and the output"):
        merge_files([one, other], one)
    with pytest.raises(ValueError, match="no files to merge"):
        merge_files([], out)
    with pytest.raises(ValueError, match="nothing to merge, they are empty"):
        merge_files([write(tmp_path / "empty.h5", [])], out)
    with pytest.raises(ValueError, match="made with different settings"):
        merge_files([one, matches], out)
    with pytest.raises(FileExistsError, match="holds matches, where features would go"):
        merge_files([one], matches)
    assert not out.exists()


def test_the_commands(tmp_path, capsys):
    features = write(tmp_path / "features.h5", NAMES)
    parts = [str(tmp_path / f"m{number}.h5") for number in (1, 2)]
    for number, part in enumerate(parts, start=1):
        assert main(["match", str(features), part, "--shard", f"{number}/2", "--quiet"]) == 0
    assert main(["merge", str(tmp_path / "all.h5"), *parts]) == 0
    assert "matches of 10 pairs" in capsys.readouterr().out
    words = ["match", str(features), parts[0], "--shard", "1/2", "--pairs", "sequential+retrieval"]
    assert main(words) == 2
    assert "write the pairs once by rekd-hloc pairs" in capsys.readouterr().err
    assert main(["match", str(features), parts[0], "--shard", "3/2"]) == 2
    assert "shard must be like 3/8" in capsys.readouterr().err


def test_a_shard_without_photos_is_no_failure(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    for number in range(2):
        assert cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), textured_image(60, 80))
    monkeypatch.setattr(
        "rekd_hloc.features.extractor.Extractor.from_pretrained", lambda *a, **k: SiftExtractor(20)
    )
    parts = [str(tmp_path / f"part{number}.h5") for number in (1, 2, 3)]
    words = ["extract", str(tmp_path / "photos")]
    for number, part in enumerate(parts, start=1):
        assert main([*words, part, "--shard", f"{number}/3", "--quiet"]) == 0
    assert main(["merge", str(tmp_path / "all.h5"), *parts]) == 0
    with FeatureStore(tmp_path / "all.h5") as store:
        assert store.names() == ["0.png", "1.png"]
    (tmp_path / "none").mkdir()
    assert main(["extract", str(tmp_path / "none"), str(tmp_path / "n.h5"), "--quiet"]) == 2
