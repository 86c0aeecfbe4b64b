"""The journal beside a file: whole records survive whatever happens to the last."""

import numpy as np
import pytest

from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.storage.journal import Journal
from tests.store_helpers import (
    MADE_WITH,
    no_fsync,  # noqa: F401
    small_record,
)


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
