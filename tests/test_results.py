"""The measured part of docs/results.md."""

import json

import pytest

from evaluation import results
from evaluation.baselines import METHODS
from evaluation.results import BEGIN, END, Run, measure, plan_runs, read_results, replace_measured

RECORD = {
    "protocol": "rekd",
    "description": "repeatability at 3 px",
    "data": "homographies, 20 pairs",
    "date": "2026-01-02",
    "methods": {"rekd": {"weights": "abc def"}, "sift": {"weights": "-"}},
    "tables": [{"title": "full", "columns": ["method", "rep"], "rows": [["rekd", 51.26]]}],
}


def write(path, record) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return str(path)


def test_tables_carry_protocol_data_weights_and_date(tmp_path):
    document = tmp_path / "results.md"
    one = write(tmp_path / "a" / "results.json", RECORD)
    two = write(tmp_path / "b" / "results.json", {**RECORD, "protocol": "keynet"})
    assert results.main([one, two, "--document", str(document)]) == 0
    text = document.read_text()
    assert text.index("Protocol rekd") < text.index("Protocol keynet")
    for part in ("homographies, 20 pairs", "2026-01-02", "| rekd | 51.3 |", "rekd `abc def`"):
        assert text.count(part) == 2
    assert "sift `" not in text


def test_what_people_wrote_stays(tmp_path):
    document = tmp_path / "results.md"
    document.write_text(f"# Results\n\nBefore.\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")
    one = write(tmp_path / "results.json", RECORD)
    for _ in range(2):
        assert results.main([one, "--document", str(document)]) == 0
    text = document.read_text()
    assert text.startswith("# Results\n\nBefore.")
    assert text.endswith("\n\nAfter.\n")
    assert "old" not in text
    assert text.count("## Protocol") == 1


def test_a_document_without_marks_is_appended_to():
    assert replace_measured("Hello", "new") == f"Hello\n\n{BEGIN}\n\nnew\n\n{END}\n"
    assert replace_measured("", "new") == f"{BEGIN}\n\nnew\n\n{END}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is no results file"), ("[]", "has no protocol"), ('{"protocol": 1}', "has no desc")],
)
def test_other_files_are_refused(tmp_path, caplog, content, message):
    (tmp_path / "x.json").write_text(content)
    document = tmp_path / "results.md"
    assert results.main([str(tmp_path / "x.json"), "--document", str(document)]) == 2
    assert message in caplog.text
    assert not document.exists()
    with pytest.raises(FileNotFoundError, match="no results file"):
        read_results(tmp_path / "none.json")


def test_absent_data_is_told(tmp_path, caplog):
    assert results.main(["--data", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "no folder" in caplog.text
    assert "REKD_DATA" in caplog.text


def test_the_plan_covers_all_methods_and_sweeps(tmp_path):
    (tmp_path / "train" / "photos").mkdir(parents=True)
    runs = {run.name: run for run in plan_runs(tmp_path)}
    assert set(METHODS) <= set(runs["hpatches-rekd"].methods)
    assert set(METHODS) <= set(runs["rotation"].methods)
    assert str(tmp_path / "train" / "photos") in runs["rotation"].arguments
    assert {"gaussian", "motion", "scale"} <= set(runs["sweeps"].arguments)


def test_measuring_leaves_out_what_cannot_run_and_finds_nested_results(tmp_path, caplog):
    seen = []

    def program(words):
        seen.append(list(words))
        folder = tmp_path / "out" / words[-1].rsplit("/", 1)[1]
        name = "results.json" if folder.name == "one" else "part/results.json"
        write(folder / name, RECORD)
        return 0

    runs = [Run("one", program, ("--data", "d"), ("orb", "surf")), Run("two", program, (), ())]
    found = measure(runs, tmp_path / "out")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in found] == [
        "one/results.json",
        "two/part/results.json",
    ]
    assert seen[0][:4] == ["--data", "d", "--method", "orb"]
    assert "surf" not in seen[0]
    assert "left out: no method 'surf'" in caplog.text


def test_a_failed_program_ends_the_measuring(tmp_path):
    with pytest.raises(RuntimeError, match="one failed"):
        measure([Run("one", lambda words: 2, (), ())], tmp_path)
