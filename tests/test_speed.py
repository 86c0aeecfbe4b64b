import json
import tempfile
import time
from pathlib import Path

import cv2
import pytest
from helpers import textured_image

from evaluation import speed
from evaluation.extractors.registry import load_extractor
from evaluation.reconstruction.step_times import Step, steps_table, time_steps


def test_medians_and_ratios_are_those_of_the_work_done():
    runs = {
        "slow": lambda: time.sleep(0.03) or 5,
        "fast": lambda: time.sleep(0.01) or 7,
    }
    rows = speed.measure(runs, repeats=3)
    assert rows["slow"]["ratio"] == 1.0
    assert 0.1 < rows["fast"]["ratio"] < 0.9
    assert rows["slow"]["median_s"] >= rows["slow"]["least_s"] >= 0.03
    assert (rows["slow"]["keypoints"], rows["fast"]["keypoints"]) == (5, 7)


def test_the_first_turn_is_not_counted():
    durations = iter([0.2, 0.001, 0.001])
    rows = speed.measure({"a": lambda: time.sleep(next(durations)) or 1}, repeats=2)
    assert rows["a"]["median_s"] < 0.15


def test_methods_run_in_turns():
    order = []
    speed.measure({n: lambda n=n: order.append(n) or 0 for n in "ab"}, repeats=2)
    assert order == list("ababab")


def test_the_program_writes_a_table_of_all_methods(tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "a.png"), textured_image(60, 80))
    words = ["--image", str(tmp_path / "a.png"), "--size", "160x120", "--repeats", "1"]
    methods = ["--method", "orb", "--method", "sift"]
    assert speed.main([*words, *methods, "--out", str(tmp_path), "--device", "cpu"]) == 0
    record = json.loads((tmp_path / "results.json").read_text())
    assert list(record["methods"]) == ["orb", "sift"]
    assert record["methods"]["orb"]["median_s"] > 0
    assert record["protocol"] == "speed"
    assert "160x120 px" in record["description"]
    assert [row[0] for row in record["tables"][0]["rows"]] == ["orb", "sift"]
    assert "| sift |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "surf"], "no method 'surf'"),
        (["--method", "orb", "--size", "640"], "size must read WIDTHxHEIGHT"),
        (["--method", "orb", "--size", "0x5"], "size must read WIDTHxHEIGHT"),
        (["--method", "orb", "--repeats", "0"], "repeats must be at least 1"),
        (["--method", "orb", "--image", "none.png"], "none.png"),
    ],
)
def test_mistakes_end_with_a_message(tmp_path, caplog, words, message):
    cv2.imwrite(str(tmp_path / "a.png"), textured_image(20, 20))
    image = [] if "--image" in words else ["--image", str(tmp_path / "a.png")]
    assert speed.main([*image, *words]) == 2
    assert message in caplog.text


def test_steps_are_told_in_shares_of_the_extraction():
    steps = [
        Step("extract", 4.0, 10, "photos", "900 keypoints"),
        Step("refine", 0.5, 10, "photos"),
    ]
    table = steps_table("orb", 10, steps)
    assert table.title == "steps of 10 photos"
    assert table.rows == [
        ["orb", "extract", "4.00", "400.0", 100.0, "10 photos, 900 keypoints"],
        ["orb", "refine", "0.50", "50.0", 12.5, "10 photos"],
    ]


@pytest.mark.slow
def test_steps_are_timed_up_to_refined_keypoints(photos):
    with tempfile.TemporaryDirectory() as folder:
        steps = time_steps(load_extractor("sift", 300), photos / "images", Path(folder))
    assert [step.name for step in steps] == [
        "extract", "match", "consensus alone", "verify", "refine",
    ]  # fmt: skip
    assert all(step.seconds > 0 for step in steps)
    assert int(steps[-1].note.split(" of ")[0]) > 50


def test_one_photo_makes_no_track(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), textured_image(60, 80))
    with pytest.raises(ValueError, match="two at least make a track"):
        time_steps(load_extractor("orb", 10), tmp_path, tmp_path)
