"""The measured blocks of docs/results.md."""

import json
import os
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from evaluation import results
from evaluation.extractors.registry import EXTRACTORS
from evaluation.reporting.report import Table
from evaluation.reporting.results_document import NOT_MEASURED, has_content, replace_block
from evaluation.reporting.results_imc import make_overviews
from evaluation.reporting.results_plan import PARTS, Part
from evaluation.reporting.results_records import Record, merge_records, read_record, read_records

PLAN = {part.name: part for part in PARTS}
REKD = {
    "protocol": "rekd",
    "description": "repeatability at 3 px",
    "data": "homographies, 20 pairs",
    "date": "2026-01-02",
    "methods": {
        "rekd-fast": {"weights": "abc def"},
        "sift": {"weights": "-", "provenance": {"version": "opencv 5"}},
    },
    "tables": [
        {"title": "full", "columns": ["method", "rep"], "rows": [["rekd-fast", 51.26], ["sift", 4]]}
    ],
    "plots": [
        {
            "name": "curve-full",
            "title": "full",
            "x_label": "px",
            "y_label": "%",
            "x": [1, 2, 3],
            "curves": {"rekd-fast": [1, 2, 3], "rekd-fast *": [2, 3, 4], "sift": [1, 1, 2]},
        }
    ],
}


def make_record(method: str, value: float, **changes) -> dict:
    """A results file of one method."""
    plot = {**REKD["plots"][0], "curves": {method: [value] * 3}}
    table = {**REKD["tables"][0], "rows": [[method, value]]}
    methods = {method: {"weights": f"w{value:.0f}"}}
    return {**REKD, "methods": methods, "tables": [table], "plots": [plot], **changes}


def write(path: Path, record: object, age_s: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    stamp = 1_800_000_000 - age_s
    os.utime(path, (stamp, stamp))
    return path


def run(tmp_path: Path, *words: str) -> tuple[str, str]:
    document = tmp_path / "docs" / "results.md"
    assert results.main([str(tmp_path / "runs"), "--document", str(document), *words]) == 0
    return document.read_text(), document.parent.as_posix()


def test_tables_carry_protocol_data_weights_date_and_a_figure(tmp_path, capsys):
    write(tmp_path / "runs" / "any" / "results.json", REKD)
    text, folder = run(tmp_path, "--part", "rekd", "--part", "keynet")
    for part in (
        "Protocol **rekd**: repeatability at 3 px. Data: homographies, 20 pairs.",
        "| rekd-fast | 51.3 |",
        "Measured 2026-01-02 with rekd-fast `abc def`; sift `opencv 5`.",
        "](figures/results-rekd.png)",
    ):
        assert text.count(part) == 1
    picture = Path(folder) / "figures" / "results-rekd.png"
    assert picture.stat().st_size < 150_000
    with Image.open(picture) as image:
        assert image.width > 500
    # what is missing is named, in the document and with its command
    assert "Not measured: rekd, rekd-upright, rekd-c36, rekd-paper, rootsift," in text
    assert f"{NOT_MEASURED} `python -m evaluation.hpatches" in text
    printed = capsys.readouterr().out
    command = next(line for line in printed.splitlines() if "--protocol rekd" in line)
    words = shlex.split(command.removeprefix("missing: python -m evaluation.hpatches"))
    assert "rekd-fast" not in words
    assert words[-1] == "rekd-2"  # the first run's results stay
    assert "keynet: nothing measured" in printed


def test_methods_measured_by_several_commands_become_one_table(tmp_path):
    runs = tmp_path / "runs"
    write(runs / "a" / "results.json", make_record("sift", 1.0, date="2026-01-01"), age_s=9)
    write(runs / "b" / "results.json", make_record("rekd", 2.0, date="2026-01-02"), age_s=5)
    write(runs / "c" / "results.json", make_record("sift", 3.0, date="2026-01-03"), age_s=1)
    (record,) = merge_records(read_records([runs]))
    assert record.tables[0].rows == [["rekd", 2.0], ["sift", 3.0]]
    assert list(record.plots[0].curves) == ["rekd", "sift"]
    assert record.plots[0].curves["sift"] == [3.0] * 3
    assert [made.date for made in record.methods.values()] == ["2026-01-02", "2026-01-03"]
    text, _ = run(tmp_path, "--part", "rekd")
    assert "Measured 2026-01-02 with rekd `w2`." in text
    assert "Measured 2026-01-03 with sift `w3`." in text


@pytest.mark.parametrize("key", ["protocol", "description", "data"])
def test_different_conditions_are_never_mixed(tmp_path, key):
    write(tmp_path / "a" / "results.json", make_record("sift", 1.0))
    write(tmp_path / "b" / "results.json", make_record("orb", 2.0, **{key: "other"}))
    merged = merge_records(read_records([tmp_path]))
    assert [len(record.tables[0].rows) for record in merged] == [1, 1]


def test_several_rows_of_a_method_are_replaced_together(tmp_path):
    rows = [["sift", "5", 1.0], ["sift", "10", 2.0], ["orb", "5", 3.0]]
    table = {"title": "t", "columns": ["method", "bag", "x"], "rows": rows}
    old = {**REKD, "tables": [table]}
    new = {**REKD, "tables": [{**table, "rows": [["sift", "5", 9.0]]}]}
    write(tmp_path / "a" / "results.json", old, age_s=5)
    write(tmp_path / "b" / "results.json", new)
    (record,) = merge_records(read_records([tmp_path]))
    assert record.tables[0].rows == [["sift", "5", 9.0], ["orb", "5", 3.0]]


def test_what_people_wrote_stays_and_so_do_blocks_without_results(tmp_path, capsys):
    document = tmp_path / "docs" / "results.md"
    document.parent.mkdir()
    block = "<!-- begin {0}: x -->\n\n{1}\n\n<!-- end {0} -->"
    document.write_text(
        f"# Results\n\nBefore.\n\n{block.format('rekd', 'old')}\n\nBetween.\n\n"
        f"{block.format('keynet', 'measured last year')}\n\nAfter.\n"
    )
    write(tmp_path / "runs" / "results.json", REKD)
    for _ in range(2):
        text, _ = run(tmp_path, "--part", "rekd", "--part", "keynet")
    assert text.startswith("# Results\n\nBefore.")
    assert text.endswith("\n\nAfter.\n")
    assert "Between." in text
    assert "old" not in text
    assert "measured last year" in text
    assert text.count("Protocol **rekd**") == 1
    assert "keynet: no results, the document's are kept" in capsys.readouterr().out


def test_blocks_of_similar_names_are_told_apart():
    text = replace_block("", "rekd-2", "Two", "second")
    text = replace_block(text, "rekd", "One", "first")
    text = replace_block(text, "rekd", "One", "first again")
    assert text.count("second") == text.count("first again") == 1
    assert "first\n" not in text
    assert has_content(text, "rekd")
    assert not has_content(replace_block("", "rekd", "One", NOT_MEASURED), "rekd")
    assert not has_content("", "rekd")


def test_programs_with_a_table_file_of_their_own_are_shown(tmp_path):
    record = {
        "protocol": "SfM (exhaustive pairs)",
        "records": [{"method": "rekd-fast", "weights": {"a": "1", "b": "2"}}]
        + [{"method": "colmap-sift", "weights": None}],
    }
    path = write(tmp_path / "runs" / "sfm" / "results.json", record)
    with pytest.raises(ValueError, match=r"no table\.md beside"):
        read_record(path)
    path.with_name("table.md").write_text("| photos | method |\n")
    text, _ = run(tmp_path, "--part", "sfm")
    assert "| photos | method |" in text
    assert "rekd-fast `1 2`; colmap-sift." in text
    assert "Not measured: rekd." in text


def test_protocols_outside_the_plan_follow_at_the_end(tmp_path):
    write(tmp_path / "runs" / "results.json", make_record("sift", 1.0, protocol="roto360"))
    text, _ = run(tmp_path, "--part", "rekd")
    assert text.index("REKD's protocol") < text.index("## Protocol roto360")


def test_weights_that_are_no_longer_shipped_are_warned_of(tmp_path, caplog):
    write(tmp_path / "runs" / "results.json", REKD)
    run(tmp_path, "--part", "rekd")
    assert "rekd-fast of protocol rekd was measured 2026-01-02 with weights abc def" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is no results file"), ("[]", "no protocol"), ('{"protocol": "a"}', "has no tables")],
)
def test_other_files_are_refused_if_named_and_passed_over_in_folders(
    tmp_path, caplog, content, message
):
    (tmp_path / "results.json").write_text(content)
    document = tmp_path / "results.md"
    named = [str(tmp_path / "results.json"), "--document", str(document)]
    assert results.main(named) == 2
    assert message in caplog.text
    assert not document.exists()
    assert read_records([tmp_path]) == []
    assert results.main([str(tmp_path / "none.json"), "--document", str(document)]) == 2
    assert "no results file" in caplog.text


def test_absent_data_is_told_before_measuring(tmp_path, caplog):
    words = [str(tmp_path), "--measure", "--data", str(tmp_path)]
    assert results.main([*words, "--document", str(tmp_path / "r.md")]) == 2
    assert "no folder" in caplog.text
    assert "REKD_DATA" in caplog.text


def test_the_plan_covers_all_methods_and_sweeps():
    assert set(EXTRACTORS) <= set(PLAN["rekd"].methods)
    assert "sift+ours" in PLAN["rekd"].methods
    assert {"rotation", "gaussian", "motion", "scale", "homography-auc", "speed"} <= set(PLAN)
    assert {"sfm", "hloc", "imc"} <= set(PLAN)
    assert PLAN["sfm"].shows("SfM (exhaustive pairs, incremental mapper)")
    assert PLAN["hloc"].shows("hloc, exhaustive pairs, seeded verification and mapping")
    assert PLAN["imc"].shows("imc2021-multiview")
    assert not PLAN["rekd"].shows("rekd2")


def test_commands_of_the_plan_are_understood_by_their_programs():
    from evaluation import hloc_report, hpatches, rotation

    parsers = {
        "evaluation.hpatches": hpatches.build_parser().parse_args,
        "evaluation.rotation": rotation.build_parser().parse_args,
        "evaluation.hloc_report": hloc_report.parse_arguments,
    }
    seen = 0
    for part in PARTS:
        words = part.words("D", "R", part.methods, 2)
        assert "{data}" not in " ".join(words)
        if part.program in parsers:
            parsers[part.program](words)
            seen += 1
    assert seen == 9


def test_measuring_runs_only_what_is_missing_and_can_run(tmp_path, monkeypatch, caplog):
    data = tmp_path / "data"
    for folder in ("homographies", "train"):
        (data / folder).mkdir(parents=True)
    seen = []

    class Program:
        @staticmethod
        def main(words):
            seen.append(words)
            write(Path(words[-1]) / "results.json", make_record("orb", 5.0, protocol=words[0]))
            return 2 if "bad" in words else 0

    monkeypatch.setattr(results.importlib, "import_module", lambda name: Program)
    one = Part("one", "One", ("one",), "any", ("one",), ("orb", "sift", "surf"))
    two = replace(one, name="two", protocols=("two",), arguments=("two",), is_one_run=True)
    write(tmp_path / "runs" / "x" / "results.json", make_record("sift", 1.0, protocol="one"))
    write(tmp_path / "runs" / "y" / "results.json", make_record("sift", 1.0, protocol="two"))
    results.measure_missing([one, two], data, [tmp_path / "runs"])
    out = tmp_path / "runs"
    assert seen[0] == ["one", "--method", "orb", "--out", f"{out}/one-2"]
    assert seen[1] == ["two", "--method", "orb", "--method", "sift", "--out", f"{out}/two-2"]
    assert "left out: no method 'surf'" in caplog.text
    results.measure_missing([one], data, [out])
    assert len(seen) == 2  # what cannot run is no reason to run again
    bad = replace(one, name="bad", protocols=("bad",), arguments=("bad",))
    with pytest.raises(RuntimeError, match="bad failed"):
        results.measure_missing([bad], data, [out])


def pose_record(task: str, rows: list, *, scene="x/hall", images=4, **parameters) -> Record:
    """A record of evaluation.imc."""
    sized = ["bag size"] if task == "multiview" else []
    title = f"{task.capitalize()}, {scene}, of some kind"
    columns = ["method", "matches by", *sized, "mAA(10)"]
    usual = {"num_keypoints": 500, "seeds": 3, "turned": None, "ratio": ["none"]}
    return Record(
        f"imc2021-{task}", "", f"{scene}, {images} images, 6 pairs", {},
        [Table(title, columns, rows)], [], parameters={**usual, **parameters},
    )  # fmt: skip


def test_pose_tables_have_an_overview_of_conditions():
    records = [
        pose_record("stereo", [["sift", "nn", "0.1004"], ["rekd-fast", "nn", "0.3"]]),
        pose_record("stereo", [["rekd-fast", "nn ratio 0.9", "0.7"], ["sift", "nn", "0.8"]],
                    ratio=["none", "0.9"]),
        pose_record("stereo", [["rekd-fast", "nn ratio 0.8", "0.6"]], ratio=["0.8"], turned=1,
                    seeds=1, filter="ours"),
        pose_record("stereo", [["disk", "nn", "0.2"]], scene="x/tower", images=9),
        pose_record("stereo", [["disk", "nn", "0.4"]], num_keypoints=60),
        pose_record("multiview", [["sift", "nn", "5", "0.3"], ["sift", "nn", "10", "0.4"],
                                  ["sift", "nn", "mean", "0.35"], ["disk", "nn", "5", "0.5"],
                                  ["disk", "nn", "10", "0.1"], ["disk", "nn", "mean", "0.9"]]),
    ]  # fmt: skip
    few, stereo, multiview = make_overviews(records)
    assert few.title == "mAA(10), stereo, 60 keypoints"
    assert few.rows == [["disk", "0.400"]]
    assert stereo.columns == [
        "method",
        "hall, 4 images: mutual neighbours",
        "hall, 4 images: best of none, 0.9",
        "hall, 4 images: turned, ratio 0.8, filter ours, one seed",
        "tower, 9 images: mutual neighbours",
    ]
    assert stereo.rows == [
        ["rekd-fast", "**0.300**", "0.700 ratio 0.9", "0.600", ""],
        ["sift", "0.100", "**0.800** no ratio", "", ""],
        ["disk", "", "", "", "0.200"],
    ]
    assert multiview.columns[1] == "hall, 4 images, bags of 5 / 10: mutual neighbours"
    assert multiview.rows == [["sift", "**0.300 / 0.400**"], ["disk", "0.500 / 0.100"]]


def test_few_or_other_tables_need_no_overview():
    record = pose_record("stereo", [["sift", "nn", "0.1"]])
    assert make_overviews([record] * 2) == []
    assert make_overviews([replace(record, protocol="rekd")] * 5) == []
    assert make_overviews([replace(record, parameters={})] * 5) == []


def test_the_overview_stands_before_the_tables_it_is_of(tmp_path):
    for number, ratio in enumerate(("none", "0.8", "0.9")):
        record = pose_record("stereo", [["sift", "nn", "0.25"]], ratio=[ratio])
        stored = {
            "protocol": record.protocol, "description": f"with {ratio}", "data": record.data,
            "methods": {"sift": {"weights": "-"}}, "tables": [vars(record.tables[0])],
            "parameters": record.parameters,
        }  # fmt: skip
        write(tmp_path / "runs" / str(number) / "results.json", stored)
    document, _ = run(tmp_path, "--part", "imc")
    head = document.index("**mAA(10), stereo, 500 keypoints**")
    assert head < document.index("Protocol **imc2021-stereo**")
    assert "| sift | 0.250 | 0.250 | 0.250 |" in document
