import json
import logging

import pytest

import evaluation.sfm as sfm
from evaluation.reconstruction.pipelines import resolve_preset
from evaluation.rendering.scene import render_scene
from evaluation.reporting.records import read_record
from rekd_hloc.config import get_preset, reconstruction_preset, with_max_keypoints
from rekd_hloc.demo import DEMO_IMAGES, DEMO_REFERENCE


def record(method, seed, rotation):
    return {
        "images": "upright",
        "method": method,
        "seed": seed,
        "num_registered": 10,
        "num_points3D": 100 + seed,
        "num_observations": 300,
        "mean_track_length": 3.0,
        "mean_reprojection_error_px": 0.5,
        "rotation_error_deg": None if rotation is None else {"median": rotation, "max": 9.0},
        "center_error_rel": None if rotation is None else {"median": 0.01, "max": 1.0},
    }


def test_the_table_gives_mean_and_spread_over_seeds():
    rows = [record("rekd", 0, 0.2), record("rekd", 2, 0.4), record("sift", 0, None)]
    (table,) = sfm.make_tables(rows)
    assert table.title == "upright images"
    assert table.rows == [
        ["rekd", "10", "101 (100..102)", "300", "3.00", "0.500", "0.300 (0.200..0.400)", "1.0000",
         "9.000", "100.0000"],
        ["sift", "10", "100", "300", "3.00", "0.500", *["none"] * 4],
    ]  # fmt: skip


def test_a_missing_reference_is_named(tmp_path, caplog):
    arguments = ["--images", str(tmp_path), "--reference", str(tmp_path / "none")]
    with caplog.at_level(logging.ERROR):
        assert sfm.main([*arguments, "--out", str(tmp_path / "o")]) == 2
    assert "no reference folder" in caplog.text


def test_a_method_may_end_in_a_budget():
    conf, config = resolve_preset("rekd-fast-n8000")
    assert (conf, config) == ("rekd-fast", with_max_keypoints(get_preset("rekd-fast"), 8000))
    assert resolve_preset("rekd-c36") == ("rekd-c36", reconstruction_preset("rekd-c36"))


def test_a_wrong_method_is_named_before_the_work(tmp_path, caplog):
    arguments = ["--images", str(DEMO_IMAGES), "--reference", str(DEMO_REFERENCE)]
    for name, message in (("rekd-n0", "max_keypoints"), ("rek", "no preset 'rek'")):
        out = tmp_path / name
        methods = ["--method", "rekd-fast", "--method", name]
        assert sfm.main([*arguments, "--out", str(out), *methods]) == 2
        assert message in caplog.text
        assert not out.exists()


@pytest.mark.slow
def test_both_pipelines_find_the_demo_scenes_poses_upright_and_rotated(tmp_path):
    scene = render_scene(tmp_path / "scene", num_views=5)
    arguments = ["--images", str(scene / "images"), "--reference", str(scene / "reference")]
    out = tmp_path / "out"
    assert sfm.main([*arguments, "--out", str(out), "--rotated", "--seeds", "0", "1"]) == 0
    stored = read_record(out / "results.json")
    assert [table.title for table in stored.tables] == ["upright images", "rotated images"]
    assert stored.methods["rekd-fast"].weights != stored.methods["colmap-sift"].weights == "-"
    records = json.loads((out / "results.json").read_text())["records"]
    assert len(records) == 2 * 2 * 2
    for entry in records:
        assert entry["num_registered"] == 5, entry
        assert entry["unregistered"] == []
        assert entry["rotation_error_deg"]["median"] < 1.0
