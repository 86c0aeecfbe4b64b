"""The journal beside a file: whole records survive whatever happens to the last."""

import time

import numpy as np
import pytest

from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.storage.journal import Journal
from rekd_hloc.storage.journal_records import HEAD, MARK
from tests.store_helpers import (
    MADE_WITH,
    no_fsync,  # noqa: F401
    small_record,
)


@pytest.mark.slow
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


def write_journal(path, count):
    """A journal of so many records; where each of them begins, and the end."""
    journal = Journal.resume(path, MADE_WITH)
    places = [journal.size()]
    for number in range(count):
        journal.append(small_record(number + 1))
        places.append(journal.size())
    journal.close()
    return places


def spoil(path, start, count, value=0):
    content = bytearray(path.read_bytes())
    content[start : start + count] = bytes([value]) * count
    path.write_bytes(content)


def groups(*numbers):
    return [f"sub/{number}.jpg" for number in numbers]


@pytest.mark.parametrize(
    ("record", "skip", "count", "sound", "lost"),
    [
        (1, 100, 1, (1, 3, 4), "at least 1 of"),
        (1, 0, 4, (1, 3, 4), "at least 1 of"),
        (1, 4, 60, (1, 3, 4), "at least 1 of"),
        (0, 0, 300, (3, 4), "at least 1 of"),
        (3, 50, 60, (1, 2, 3), "cut short"),
    ],
)
def test_what_is_sound_before_and_behind_damage_is_kept(
    record, skip, count, sound, lost, tmp_path, caplog
):
    path = tmp_path / "a.journal"
    places = write_journal(path, 4)
    spoil(path, places[record] + skip, count, 255)
    journal = Journal.resume(path, MADE_WITH)
    assert list(journal) == groups(*sound)
    for number in sound:
        assert set(journal.read(f"sub/{number}.jpg").arrays) == {"keypoints", "name"}
    journal.append(small_record(9))
    journal.close()
    assert list(Journal(path)) == groups(*sound, 9)
    assert lost in caplog.text


@pytest.mark.parametrize("count", [1, 10, 300])
@pytest.mark.parametrize("value", [0, 65])
def test_a_journal_without_its_head_is_set_aside(value, count, tmp_path, caplog):
    path = tmp_path / "f.h5.journal"
    write_journal(path, 5)
    spoil(path, 0, count, value)
    damaged = path.read_bytes()
    for number in (1, 2):
        with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
            assert store.names() == []
            assert path.with_name(f"f.h5.journal.damaged{number}").read_bytes() == damaged
        path.write_bytes(damaged)
    assert "f.h5.journal.damaged1 now, and a new one is begun" in caplog.text


def test_a_crafted_journal_of_many_marks_is_given_up_in_time(tmp_path):
    path = tmp_path / "a.journal"
    write_journal(path, 1)
    claim = HEAD.pack(MARK, 1, 1 << 19, 0)
    path.write_bytes(path.read_bytes() + claim * (3 << 15) + bytes(1 << 19))
    start = time.monotonic()
    assert list(Journal(path)) == groups(1)
    assert time.monotonic() - start < 5


def test_a_file_that_is_no_journal_is_left_alone(tmp_path):
    (tmp_path / "f.h5.journal").write_text("my diary")
    with pytest.raises(ValueError, match="no journal of this program; move it elsewhere"):
        FeatureStore.resume(tmp_path / "f.h5", MADE_WITH)
    assert (tmp_path / "f.h5.journal").read_text() == "my diary"
