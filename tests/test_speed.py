import json
import tempfile
import time
from pathlib import Path

import cv2
import psutil
import pytest
import torch
from helpers import textured_image

from evaluation.extractors.registry import load_extractor
from evaluation.reconstruction.step_times import Step, steps_table, time_steps
from evaluation.speed import benchmark, neighbours, stages, turns
from rekd_hloc.config import get_preset, with_max_keypoints
from rekd_hloc.features.extractor import Extractor


def test_medians_are_those_of_the_work_done():
    runs = {
        "slow": lambda: time.sleep(0.03) or 5,
        "busy": lambda: spin(0.03) or 7,
    }
    rows = turns.measure(runs, repeats=3)
    assert rows["slow"].median_s >= rows["slow"].least_s >= 0.03
    assert (rows["slow"].keypoints, rows["busy"].keypoints) == (5, 7)
    assert rows["slow"].cpu_s < 0.01 < 0.02 < rows["busy"].cpu_s


def spin(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_the_first_turn_is_not_counted():
    durations = iter([0.2, 0.001, 0.001])
    rows = turns.measure({"a": lambda: time.sleep(next(durations)) or 1}, repeats=2)
    assert rows["a"].median_s < 0.15


def test_methods_run_in_turns():
    order = []
    turns.measure({n: lambda n=n: order.append(n) or 0 for n in "ab"}, repeats=2)
    assert order == list("ababab")


@pytest.mark.parametrize(("names", "ratios"), [(("sift", "orb"), (1.0, 2.0)), (None, (2.0, 4.0))])
def test_ratios_are_to_colmap_s_sift_where_it_is_measured(names, ratios):
    rows = {
        name: turns.Timing(median_s=seconds, least_s=seconds, cpu_s=seconds, keypoints=1)
        for name, seconds in {"sift": 2.0, "orb": 4.0, "colmap-sift": 1.0}.items()
        if names is None or name in names
    }
    table = benchmark.make_table(rows)
    assert tuple(float(row[-1]) for row in table.rows[:2]) == ratios
    assert table.title.endswith("colmap-sift" if names is None else "sift")


def test_the_program_writes_a_table_of_all_methods(tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "a.png"), textured_image(60, 80))
    words = ["--image", str(tmp_path / "a.png"), "--size", "160x120", "--repeats", "1"]
    methods = ["--method", "orb", "--method", "sift", "--busy", "0,1"]
    assert benchmark.main([*words, *methods, "--out", str(tmp_path), "--device", "cpu"]) == 0
    record = json.loads((tmp_path / "results.json").read_text())
    assert list(record["methods"]) == ["orb", "sift"]
    assert record["methods"]["orb"]["median_s"] > 0
    assert record["protocol"] == "speed"
    assert "160x120 px" in record["description"]
    assert [row[0] for row in record["tables"][0]["rows"]] == ["orb", "sift"]
    assert "1 busy neighbours" in record["tables"][1]["title"]
    assert "| sift |" in capsys.readouterr().out


def test_neighbours_are_gone_afterwards():
    with neighbours.busy_neighbours(2):
        children = psutil.Process().children()
        assert sum("while True" in " ".join(child.cmdline()) for child in children) == 2
    assert not any("while True" in " ".join(c.cmdline()) for c in psutil.Process().children())


def test_stages_and_their_multiplications(tmp_path):
    photo = tmp_path / "a.png"
    cv2.imwrite(str(photo), textured_image(96, 128))
    config = with_max_keypoints(get_preset("rekd-fast"), 40)
    extractor = Extractor.from_pretrained("rekd-fast", device="cpu", config=config)
    before = extractor(photo)
    found = {stage.name: stage for stage in stages.time_stages(extractor, photo, 1)}
    assert all(stage.seconds > 0 for stage in found.values())
    layers = [m for m in extractor.descriptor.modules() if isinstance(m, torch.nn.Conv2d)]
    sides = (32, 32, 16, 16, 8, 8, 1)
    areas = zip(layers, sides, strict=True)
    per_patch = sum(layer.weight.numel() * side**2 for layer, side in areas)
    assert found["descriptor"].gmac == pytest.approx(len(before) * per_patch / 1e9, rel=0.02)
    assert found["network"].gmac > 0.1
    assert found["reading"].gmac == 0
    table = stages.stages_table("rekd-fast", list(found.values()), roof=50.0)
    assert sum(row[2] for row in table.rows) == pytest.approx(100)
    assert torch.equal(extractor(photo).descriptors, before.descriptors)  # as it was


def test_batches_and_launches_are_told(tmp_path, capsys, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.png"), textured_image(60, 80))
    monkeypatch.setattr(benchmark, "GPU_IMAGES", 2)
    words = ["--image", str(tmp_path / "a.png"), "--size", "64x48", "--repeats", "1"]
    words += ["--method", "rekd-fast", "--batches", "1,2", "--launches", "--device", "cpu"]
    assert benchmark.main([*words, "--set", "detector.levels_up=0", "--out", str(tmp_path)]) == 0
    assert "several images of one size" in capsys.readouterr().out
    tables = json.loads((tmp_path / "results.json").read_text())["tables"]
    assert [row[0] for row in tables[1]["rows"]] == ["1", "2"]
    alone, together, captured = (dict(row[:2] for row in table["rows"]) for table in tables[2:])
    assert 0.3 * alone["all"] < together["all"] < 0.7 * alone["all"]
    assert captured["all"] < 0.7 * together["all"]
    assert captured["network"] <= 2 * 3 / 2 + 2  # copies to and from each of two levels' graphs


@pytest.mark.slow
def test_a_folder_beside_colmap(photos, capsys):
    words = ["--image", str(next((photos / "images").iterdir())), "--size", "160x120"]
    words += ["--method", "rekd-fast", "--repeats", "1", "--num-keypoints", "50"]
    assert benchmark.main([*words, "--folder", str(photos / "images"), "--folder-photos", "2"]) == 0
    out = capsys.readouterr().out
    assert "a folder of 2 photos" in out
    assert out.count("colmap extract_features") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "surf"], "no method 'surf'"),
        (["--method", "orb", "--size", "640"], "size must read WIDTHxHEIGHT"),
        (["--method", "orb", "--size", "0x5"], "size must read WIDTHxHEIGHT"),
        (["--method", "orb", "--busy", "many"], "--busy must be counts, like 0,1,3"),
        (["--method", "orb", "--batches", "8;"], "--batches must be counts"),
        (["--method", "orb", "--repeats", "0"], "repeats must be at least 1"),
        (["--method", "orb", "--image", "none.png"], "none.png"),
    ],
)
def test_mistakes_end_with_a_message(tmp_path, caplog, words, message):
    cv2.imwrite(str(tmp_path / "a.png"), textured_image(20, 20))
    image = [] if "--image" in words else ["--image", str(tmp_path / "a.png")]
    assert benchmark.main([*image, *words]) == 2
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
