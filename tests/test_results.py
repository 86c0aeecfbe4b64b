"""The raw tables and charts under docs/results."""

import csv
import json
import os
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from evaluation import results
from evaluation.extractors.registry import EXTRACTORS, load_extractor
from evaluation.reporting.bars import BarPanel, draw_bars, read_number, read_panel
from evaluation.reporting.charts import pose_panels
from evaluation.reporting.plan import PARTS, Part
from evaluation.reporting.records import (
    Made,
    Record,
    extractor_rank,
    merge_records,
    read_record,
    read_records,
)
from evaluation.reporting.report import Table
from evaluation.reporting.store import read_part, write_part

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


def run(tmp_path: Path, *words: str) -> Path:
    """Collect what lies in ``runs`` and return the folder of the stored results."""
    out = tmp_path / "docs" / "results"
    assert results.main([str(tmp_path / "runs"), "--out", str(out), *words]) == 0
    return out


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_tables_carry_protocol_data_weights_date_and_charts(tmp_path, capsys):
    write(tmp_path / "runs" / "any" / "results.json", REKD)
    folder = run(tmp_path, "--part", "rekd", "--part", "keynet")
    rows = read_csv(folder / "rekd.csv")
    assert rows[0] == {
        "record": "1", "protocol": "rekd", "data": "homographies, 20 pairs", "table": "full",
        "method": "rekd-fast", "rep": "51.26",
    }  # fmt: skip
    about = json.loads((folder / "rekd.json").read_text())
    assert about["title"].endswith("REKD's protocol")
    assert about["command"].startswith("python -m evaluation.hpatches --data DATA/homographies")
    (record,) = about["records"]
    assert record["description"] == "repeatability at 3 px"
    assert record["methods"]["rekd-fast"] == {"weights": "abc def", "date": "2026-01-02"}
    assert record["methods"]["sift"]["weights"] == "opencv 5"
    points = read_csv(folder / "rekd-curves.csv")
    assert points[3] == {
        "record": "1", "plot": "curve-full", "method": "rekd-fast *", "x": "1.0", "y": "2.0",
    }  # fmt: skip
    with Image.open(folder / "rekd-curves.png") as image:
        assert image.width > 500
    assert (folder / "rekd-curves.png").stat().st_size < 150_000
    # what is missing is named with its command, and nothing is written for it
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "rekd: 2 methods"
    words = shlex.split(lines[1].removeprefix("missing: python -m evaluation.hpatches"))
    assert {"rekd", "rekd-paper", "rootsift"} <= set(words)
    assert "rekd-fast" not in words
    assert words[-1] == "rekd-2"  # the first run's results stay
    assert lines[2] == "keynet: 0 methods"
    assert "--protocol keynet" in lines[3]
    assert not (folder / "keynet.json").exists()


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
    (stored,) = read_part(run(tmp_path, "--part", "rekd"), "rekd")
    assert stored.methods["rekd"] == Made("w2", "2026-01-02")
    assert stored.methods["sift"] == Made("w3", "2026-01-03")


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


def test_stored_results_stay_and_join_what_is_measured_later(tmp_path, capsys):
    first, runs = tmp_path / "first" / "runs" / "results.json", tmp_path / "runs"
    write(first, make_record("sift", 1.26, date="2026-01-01"))
    folder = run(tmp_path / "first", "--part", "rekd")
    folder.parent.rename(tmp_path / "docs")
    folder = tmp_path / "docs" / "results"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    run(tmp_path, "--part", "rekd")  # nothing new
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    write(runs / "results.json", make_record("rekd", 2.0))
    run(tmp_path, "--part", "rekd")
    assert capsys.readouterr().out.count("rekd: 2 methods") == 1
    (stored,) = read_part(folder, "rekd")
    assert stored.tables[0].rows == [["rekd", "2.0"], ["sift", "1.26"]]
    assert stored.plots[0].curves == {"rekd": [2.0] * 3, "sift": [1.26] * 3}
    assert stored.methods["sift"].date == "2026-01-01"


def test_what_is_stored_is_read_as_it_was(tmp_path):
    tables = [Table("a", ["method", "x", "y"], [["sift", "0.10 ± 0.01", None], ["orb", "4", "5"]]),
              Table("b", ["row", "z"], [["sift", "1"]])]  # fmt: skip
    made = {"sift": Made("-", "2026-01-01")}
    one = Record("p", "about", "data", made, tables, [], {"seeds": 3, "ratio": ["none", "0.9"]})
    two = replace(one, parameters={"seeds": 3, "ratio": None}, tables=tables[1:])
    write_part(tmp_path, "part", "Title", "command", [one, two])
    assert read_part(tmp_path, "part") == [one, two]
    rows = read_csv(tmp_path / "part.csv")
    # what differs between the records stands in the table
    assert [row["parameters.ratio"] for row in rows] == ["none, 0.9"] * 3 + [""]
    assert "parameters.seeds" not in rows[0]
    assert read_part(tmp_path, "none") == []
    (tmp_path / "part.json").write_text("{}")
    with pytest.raises(ValueError, match=r"part\.json was not written by evaluation\.results"):
        read_part(tmp_path, "part")


def test_results_of_before_get_the_present_names(tmp_path):
    path = write(tmp_path / "results.json", make_record("orb+ours", 1.0))
    record = read_record(path)
    assert list(record.methods) == ["orb+rekd-hardnet"]
    assert record.tables[0].rows == [["orb+rekd-hardnet", 1.0]]
    assert list(record.plots[0].curves) == ["orb+rekd-hardnet"]


def test_protocols_outside_the_plan_get_files_of_their_own(tmp_path, capsys):
    write(tmp_path / "runs" / "results.json", make_record("sift", 1.0, protocol="roto360"))
    folder = run(tmp_path, "--part", "rekd")
    assert json.loads((folder / "roto360.json").read_text())["title"] == "Protocol roto360"
    assert "--roto360" in json.loads((folder / "roto360.json").read_text())["command"]
    assert "roto360: 1 methods" in capsys.readouterr().out


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
    out = tmp_path / "out"
    assert results.main([str(tmp_path / "results.json"), "--out", str(out)]) == 2
    assert message in caplog.text
    assert not out.exists()
    assert read_records([tmp_path]) == []
    assert results.main([str(tmp_path / "none.json"), "--out", str(out)]) == 2
    assert "no results file" in caplog.text


def test_absent_data_is_told_before_measuring(tmp_path, caplog):
    words = [str(tmp_path), "--measure", "--data", str(tmp_path)]
    assert results.main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "no folder" in caplog.text
    assert "REKD_DATA" in caplog.text


def test_the_plan_covers_all_methods_and_transforms():
    assert set(EXTRACTORS) <= set(PLAN["rekd"].methods)
    assert "sift+rekd-hardnet" in PLAN["rekd"].methods
    assert {"rotation", "gaussian", "motion", "scale", "homography-auc", "speed"} <= set(PLAN)
    assert {"sfm", "hloc", "imc"} <= set(PLAN)
    protocols = [protocol for part in PARTS for protocol in part.protocols]
    assert len(set(protocols)) == len(protocols)
    assert {"SfM", "hloc", "imc2021-stereo", "imc2021-multiview"} <= set(protocols)


def test_the_results_of_this_project_are_stored_and_charted():
    folder = results.ROOT / "docs" / "results"
    for part in PARTS:
        records = read_part(folder, part.name)
        assert {record.protocol for record in records} == set(part.protocols)
        for record in records:
            assert record.data
            assert record.methods
            assert all(table.rows for table in record.tables)
        assert (folder / f"{part.name}.png").is_file()


def test_commands_of_the_plan_are_understood_by_their_programs():
    from evaluation import hloc_report, hpatches, rotation, sfm

    parsers = {
        "evaluation.hpatches": hpatches.build_parser().parse_args,
        "evaluation.rotation": rotation.build_parser().parse_args,
        "evaluation.hloc_report": hloc_report.parse_arguments,
        "evaluation.sfm": sfm.build_parser().parse_args,
    }
    seen = 0
    for part in PARTS:
        words = part.words("D", "R", part.methods, 2)
        assert "{data}" not in " ".join(words)
        if part.program in parsers:
            parsers[part.program](words)
            seen += 1
    assert seen == 10


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
    stored = tmp_path / "stored"
    results.measure_missing([one, two], data, [tmp_path / "runs"], stored)
    out = tmp_path / "runs"
    assert seen[0] == ["one", "--method", "orb", "--out", f"{out}/one-2"]
    assert seen[1] == ["two", "--method", "orb", "--method", "sift", "--out", f"{out}/two-2"]
    assert "left out: no method 'surf'" in caplog.text
    results.measure_missing([one], data, [out], stored)
    assert len(seen) == 2  # what cannot run is no reason to run again
    results.collect_part(one, read_records([out]), stored)
    results.measure_missing([one], data, [tmp_path / "empty"], stored)
    assert len(seen) == 2  # nor is what is stored
    bad = replace(one, name="bad", protocols=("bad",), arguments=("bad",))
    with pytest.raises(RuntimeError, match="bad failed"):
        results.measure_missing([bad], data, [out], stored)


def pose_record(
    task: str, rows: list, *, scene="x/hall", images=4, what="6 pairs", **parameters
) -> Record:
    """A record of evaluation.imc."""
    sized = ["bag size"] if task == "multiview" else []
    title = f"{task.capitalize()}, {scene}, of some kind"
    columns = ["method", "matches by", *sized, "mAA(10)"]
    usual = {"num_keypoints": 500, "seeds": 3, "turned": None, "ratio": ["none"]}
    return Record(
        f"imc2021-{task}", "", f"{scene}, {images} images, {what}", {},
        [Table(title, columns, rows)], [], parameters={**usual, **parameters},
    )  # fmt: skip


def test_poses_of_upright_and_rotated_images_are_charted():
    records = [
        pose_record("stereo", [["rekd-fast", "nn ratio 0.9", "0.7"], ["sift", "nn", "0.8"]],
                    ratio=["none", "0.9"]),
        pose_record("stereo", [["sift", "nn", "0.1004"], ["rekd-fast", "nn", "0.3"]]),
        pose_record("stereo", [["rekd-fast", "nn ratio 0.8", "0.6"]], ratio=["0.8"], rotated=1),
        pose_record("stereo", [["sift", "nn ratio 0.8", "0.5"]], ratio=["0.8"], turned=1),
        pose_record("stereo", [["disk", "nn", "0.2"]], scene="x/tower", images=9),
        pose_record("stereo", [["disk", "nn", "0.4"]], num_keypoints=60),
        pose_record("stereo", [["sift", "nn", "0.9"]], what="2 pairs (1 calibration is recovered)"),
        pose_record("stereo", [["sift", "nn", "0.7"]], turned=1,
                    what="2 pairs; every second image is rotated"),
        pose_record("multiview", [["sift", "nn", "5", "0.3"], ["sift", "nn", "10", "0.4"],
                                  ["sift", "nn", "mean", "0.35"]], what="3 bags of 5, 2 of 10"),
        pose_record("multiview", [["sift", "nn", "mean", "0.6"]], what="2 bags of 10"),
        pose_record("multiview", [["sift", "nn", "mean", "0.5"]], rotated=1, what="3 bags of 10"),
        replace(pose_record("stereo", [["orb", "nn", "0.1"]]), protocol="rekd", parameters={}),
    ]  # fmt: skip
    panels = {panel.title: panel.values for panel in pose_panels(records)}
    assert panels == {
        # several ratio tests count before one
        "stereo, hall, 500 keypoints, 4 images, 6 pairs": {
            "sift": {"upright": 0.8, "rotated": 0.5},
            "rekd-fast": {"upright": 0.7, "rotated": 0.6},
        },
        "stereo, tower, 500 keypoints, 9 images, 6 pairs": {"disk": {"upright": 0.2}},
        "stereo, hall, 60 keypoints, 4 images, 6 pairs": {"disk": {"upright": 0.4}},
        # other pairs, and bags of other sizes, are not compared with these
        "stereo, hall, 500 keypoints, 4 images, 2 pairs": {
            "sift": {"upright": 0.9, "rotated": 0.7}
        },
        "multiview, hall, 500 keypoints, 4 images, bags of 5, 10": {"sift": {"upright": 0.35}},
        "multiview, hall, 500 keypoints, 4 images, bags of 10": {
            "sift": {"upright": 0.6, "rotated": 0.5}
        },
    }


def test_bars_are_drawn_where_methods_lack_values(tmp_path):
    values = {"rekd": {"a": 1.0, "b": 2.0}, "sift": {"b": 3.0}}
    panels = [BarPanel("one", "%", values), BarPanel("none", "%", {}), BarPanel("two", "s", values)]
    draw_bars(panels, tmp_path / "sub" / "bars.png")
    with Image.open(tmp_path / "sub" / "bars.png") as image:
        assert image.width > 700
    assert [read_number(cell) for cell in ("0.22 (0.20..0.23)", 4, 1.5, "-", "", None, "-3 a")] == [
        0.22, 4.0, 1.5, None, None, None, -3.0,
    ]  # fmt: skip


def test_conditions_of_one_method_stay_apart():
    table = Table("Stereo", ["method", "mAA(10)"], [["rekd", "0.5"]])
    made = {"rekd": Made("abc", "2026-01-01")}
    parameters = {"num_keypoints": 2048, "ratio": ["none"]}
    plain = Record("imc2021-stereo", "poses", "p/reichstag", made, [table], [], parameters)
    better = replace(table, rows=[["rekd", "0.6"]])
    consensus = replace(plain, tables=[better], parameters={**parameters, "filter": "consensus"})
    refined = replace(
        plain, tables=[replace(table, rows=[["rekd + refinement", "0.55"]])],
        methods={"rekd + refinement": Made("abc", "2026-01-01")},
    )  # fmt: skip
    merged = merge_records([plain, consensus, refined])
    assert [r.tables[0].rows for r in merged] == [
        [["rekd", "0.5"], ["rekd + refinement", "0.55"]], [["rekd", "0.6"]],
    ]  # fmt: skip
    assert set(merged[0].methods) == {"rekd", "rekd + refinement"}
    (panel,) = pose_panels(merged)
    assert panel.values["rekd, consensus"] == {"upright": 0.6}
    assert panel.values["rekd"] == {"upright": 0.5}


def test_where_a_program_ran_is_not_stored(tmp_path):
    about = {
        "protocol": "imc2021-stereo", "description": "poses", "data": "p/hall",
        "date": "2026-01-01",
        "methods": {}, "tables": [], "plots": [],
        "parameters": {"seeds": 3, "out": "/home/me/runs", "data": "/home/me/data", "jobs": 2},
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(about))
    (record,) = read_records([tmp_path])
    assert record.parameters == {"seeds": 3}


def test_known_intrinsics_have_a_panel_of_their_own():
    rows = [["orb", "nn", "0.5"]]
    plain = pose_record("stereo", rows, estimator="degensac")
    known = pose_record("stereo", [["orb", "nn", "0.8"]], estimator="essential-magsac")
    panels = {panel.title: panel.values for panel in pose_panels([plain, known])}
    assert len(panels) == 2
    (known_title,) = [title for title in panels if title.endswith(", known intrinsics")]
    (plain_title,) = set(panels) - {known_title}
    assert panels[plain_title] == {"orb": {"upright": 0.5}}
    assert panels[known_title] == {"orb": {"upright": 0.8}}


def test_halves_are_not_charted_as_errors_against_the_truth():
    (part,) = [part for part in PARTS if part.name == "sfm"]
    columns = ["method", "rotation median °"]
    tables = [
        Table("upright images", columns, [["orb", "0.2"], ["sift", "none"]]),
        Table("upright images, two halves of the keypoints", columns, [["sift", "0.7"]]),
    ]
    panel = read_panel("hall", "degrees", part.chart.series, tables, is_best_low=True)
    assert panel.values == {"orb": {"upright": 0.2}, "sift": {"one half against the other": 0.7}}


def test_a_preset_of_the_version_before_has_its_descriptor_and_no_ranking():
    now = load_extractor("rekd-fast", 50, device="cpu")
    before = load_extractor("rekd-fast-0.1", 50, device="cpu")
    assert before.name == "rekd-fast-0.1"
    assert before.provenance["descriptor_weights"] == "2121f987c08f"
    assert before.provenance["detector_weights"] == now.provenance["detector_weights"]
    assert "ranking_weights" in now.provenance
    assert "ranking_weights" not in before.provenance
    with pytest.raises(ValueError, match="presets with -0.1"):
        load_extractor("orb-0.1", 50, device="cpu")
    names = ["sift", "rekd-fast", "rekd-fast-0.1", "rekd-0.1"]
    assert sorted(names, key=extractor_rank) == ["rekd-0.1", "rekd-fast", "rekd-fast-0.1", "sift"]
