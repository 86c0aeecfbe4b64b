"""Files that are gone on with: settings, interrupted runs, and a second writer."""

import json
import sys
from pathlib import Path

import pytest

from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.storage.provenance import refuse_other
from tests.helpers import random_features
from tests.store_helpers import (
    MADE_WITH,
    files,
    interrupted,
    no_fsync,  # noqa: F401
    plain,
    write_group,
)


def test_other_settings_are_refused_and_named(tmp_path):
    with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
        store.write("a.jpg", random_features(3))
    before = (tmp_path / "f.h5").read_bytes()
    other = {"config": '{"detector": {"border_px": 15, "max": 200}}', "weights": "abc", "more": "x"}
    expected = (
        r"f\.h5 was made with other settings: detector\.max 100 in f\.h5, 200 now; more not "
        r"recorded in f\.h5, x now; give the settings .* or overwrite it \(--overwrite\)"
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


@pytest.mark.parametrize(
    ("stored", "asked", "shown", "hidden"),
    [
        (
            {"config": '{"ratio": 0.9}', "config_hash": "12ab"},
            {"config": '{"ratio": 0.8}', "config_hash": "34cd"},
            "settings: ratio 0.9 in m.h5, 0.8 now; give",
            "hash",
        ),
        (
            {"config": '{"descriptor": {"support": 32}}', "config_hash": "12ab"},
            {"config": '{"descriptor": {"patch_size_px": 64}}', "config_hash": "34cd"},
            "settings: descriptor.patch_size_px 32 in m.h5, 64 now; give",
            "support",
        ),
        ({"config_hash": "12ab"}, {"config_hash": "34cd"}, "config_hash 12ab in m.h5, 34cd", "#"),
        (
            {"config": "{}", "features_hash": "12ab"},
            {"config": "{}", "features_hash": "34cd"},
            "its features were made with other settings than those of now; give",
            "12ab",
        ),
        (
            {"config": json.dumps(dict.fromkeys("abcdefg", 1))},
            {"config": json.dumps(dict.fromkeys("abcdefg", 2))},
            "d 1 in m.h5, 2 now; and 3 more; give",
            "e 1",
        ),
        ({"config": "[" * 5_000}, {"config": "{}"}, "config [[", "[" * 100),
        ({"preset": "a\nb"}, {"preset": "c"}, r"preset 'a\nb' in m.h5, c now", "\n"),
    ],
)
def test_what_differs_is_named_with_both_values(stored, asked, shown, hidden):
    with pytest.raises(ValueError, match="m.h5 was made with other settings") as error:
        refuse_other(Path("m.h5"), stored, asked)
    assert shown in str(error.value)
    assert hidden not in str(error.value)


def test_a_file_of_another_program_is_not_gone_on_with(tmp_path):
    write_group(tmp_path / "f.h5", "a.jpg", **plain())
    with pytest.raises(ValueError, match=r"made by another program .*overwrite"):
        FeatureStore.resume(tmp_path / "f.h5", MADE_WITH)


def test_an_interrupted_run_with_other_settings_is_refused_too(tmp_path):
    interrupted(tmp_path / "f.h5")
    with pytest.raises(ValueError, match="weights abc in f.h5, new now"):
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
