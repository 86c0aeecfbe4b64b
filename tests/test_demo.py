"""The demo's packaged images, and what is made of them."""

import json

import pytest

from rekd_hloc.demo import DEMO_DATA, DEMO_IMAGES, DEMO_REFERENCE, copy_images, run_demo
from rekd_hloc.sfm import reconstruct as reconstruction
from rekd_hloc.sfm.alignment import read_reference
from rekd_hloc.sfm.report import format_report
from tests.sift_extractor import SiftExtractor


@pytest.fixture
def quick(monkeypatch):
    """SIFT in place of trained weights; lists the presets that were asked for."""
    asked = []

    def load(options):
        asked.append(options.conf)
        return SiftExtractor(num_keypoints=1200)

    monkeypatch.setattr(reconstruction, "_load_extractor", load)
    return asked


def test_every_packaged_image_has_a_true_pose():
    images = {path.name for path in DEMO_IMAGES.iterdir()}
    assert len(images) == 12
    assert set(read_reference(DEMO_REFERENCE)) == images
    assert sum(path.stat().st_size for path in DEMO_DATA.rglob("*")) < 1_300_000


@pytest.mark.slow
def test_demo_registers_all_views_and_writes_all_files(quick, tmp_path):
    out = tmp_path / "demo"
    report = run_demo(out, device="cpu", progress=False)
    assert quick == ["rekd-fast"]
    assert report["num_registered"] == report["num_images"] == 12
    assert report["rotation_error_deg"]["median"] < 0.5
    assert report["center_error_rel"]["median"] < 0.01
    for name in ("images", "features.h5", "matches.h5", "database.db", "sparse/0", "report.html"):
        assert (out / name).exists()
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(report))
    seconds = report["seconds"]
    assert list(seconds)[-2:] == ["page", "total"]
    assert seconds["total"] == pytest.approx(sum(list(seconds.values())[:-1]))
    assert "12 of 12 registered" in format_report(report)
    before = (out / "features.h5").stat().st_mtime_ns
    again = run_demo(out, device="cpu", conf="rekd", progress=False)
    assert quick == ["rekd-fast", "rekd"]
    assert again["num_points3D"] == report["num_points3D"]
    assert (out / "features.h5").stat().st_mtime_ns == before


def test_images_that_are_there_stay_as_they_are(tmp_path):
    (tmp_path / "view_00.jpg").write_bytes(b"mine")
    assert copy_images(tmp_path) == tmp_path
    assert (tmp_path / "view_00.jpg").read_bytes() == b"mine"
    assert len(list(tmp_path.iterdir())) == 12
