"""Seconds of the run that did the work."""

import json

import pytest

from rekd_hloc.sfm.report import Stopwatch
from rekd_hloc.sfm.work_seconds import carry_on, read_work_seconds


def test_a_stage_that_was_done_keeps_the_seconds_of_the_run_that_did_it():
    now = {"extract": 0.5, "match": 2.0, "map": 3.0}
    before = {"extract": 900.0, "match": 40.0, "map": 10.0, "total": 950.0}
    found = {"extract": 1.0, "match": 0.5}
    work = carry_on(now, found, before)
    assert work == {"extract": 900.0, "match": 42.0, "map": 3.0, "total": 945.0}
    assert carry_on(now, {}, before) == {**now, "total": 5.5}
    assert carry_on(now, found, {}) == {**now, "total": 5.5}


def test_a_stopwatch_notes_how_much_was_there():
    watch = Stopwatch()
    watch.tell_found("extract", 3, 4)
    watch.tell_found("match", 0, 0)
    assert watch.shares_found == {"extract": 0.75, "match": 0.0}


@pytest.mark.parametrize(
    ("report", "seconds"),
    [
        ({"seconds": {"map": 2.0}}, {"map": 2.0}),
        ({"seconds": {"map": 2.0}, "work_seconds": {"map": 9}}, {"map": 9.0}),
        ({"seconds": {"map": "long", "match": -1.0, "verify": 1.0}}, {"verify": 1.0}),
        ({"seconds": [1.0]}, {}),
        ([], {}),
    ],
)
def test_seconds_come_from_the_report_that_is_there(tmp_path, report, seconds):
    path = tmp_path / "report.json"
    assert read_work_seconds(path) == {}
    path.write_text(json.dumps(report))
    assert read_work_seconds(path) == seconds
