import json

import pytest

from rekd_hloc import reconstruction
from rekd_hloc.demo import run_demo
from rekd_hloc.report import format_report
from tests.sift_extractor import SiftExtractor
from tests.test_scene import build_corner


@pytest.fixture
def quick(monkeypatch):
    """A small world and SIFT in place of the courtyard and of trained weights."""
    asked = []

    def load(conf, device, config):
        asked.append(conf)
        return SiftExtractor(num_keypoints=1500)

    monkeypatch.setattr("rekd_hloc.scene.build_courtyard", build_corner)
    monkeypatch.setattr(reconstruction, "_load_extractor", load)
    return asked


def test_demo_registers_all_views_and_writes_all_files(quick, tmp_path):
    out = tmp_path / "demo"
    report = run_demo(out, num_views=5, size=(400, 300), device="cpu", progress=False)
    assert quick == ["rekd-fast"]
    assert report["num_registered"] == report["num_images"] == 5
    assert report["rotation_error_deg"]["median"] < 1.0
    assert report["center_error_rel"]["median"] < 0.02
    for name in ("features.h5", "matches.h5", "database.db", "sparse/0", "report.html"):
        assert (out / name).exists()
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(report))
    seconds = report["seconds"]
    assert list(seconds)[0] == "render"
    assert list(seconds)[-2:] == ["page", "total"]
    assert seconds["total"] == pytest.approx(sum(list(seconds.values())[:-1]))
    assert "5 of 5 registered" in format_report(report)
    assert f"stage: render {seconds['render']:.1f}, extract" in (out / "report.html").read_text()


def test_another_seed_starts_anew(quick, tmp_path):
    common = {"num_views": 3, "size": (240, 180), "device": "cpu", "progress": False}
    first = run_demo(tmp_path, seed=0, conf="rekd", **common)
    again = run_demo(tmp_path, seed=0, conf="rekd", **common)
    other = run_demo(tmp_path, seed=1, conf="rekd", **common)
    assert quick == ["rekd"] * 3
    assert again["num_keypoints"] == first["num_keypoints"]
    assert again["pairs"] == first["pairs"]
    assert other["num_keypoints"] != first["num_keypoints"]
