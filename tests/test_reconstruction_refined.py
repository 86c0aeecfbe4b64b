"""Reconstructions with refined keypoints: what is gone on with, what is made anew, what is told."""

import json
import os
import shutil

import cv2
import numpy as np
import pytest

from rekd_hloc.cli.main import main
from rekd_hloc.config import MAX_ERROR_PX, REFINED_MAX_ERROR_PX
from rekd_hloc.sfm import reconstruct as reconstruction
from rekd_hloc.sfm import refined_features
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.sfm.report import format_report
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.viz.page import _summary
from rekd_hloc.viz.run_files import RunFiles
from tests.corner_reconstruction import NUM_VIEWS, run
from tests.sift_extractor import SiftExtractor
from tests.store_helpers import plain, write_group

REFINED = "features-refined.h5"


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """Folder and report of a run without refinement; only to be copied or read."""
    output = tmp_path_factory.mktemp("plain") / "out"
    return output, run(photos, output, refine=False)


@pytest.fixture(scope="module")
def refined(photos, finished, tmp_path_factory):
    """Folder and report of a run with refinement, after one without; only to be copied or read."""
    output = tmp_path_factory.mktemp("refined") / "out"
    shutil.copytree(finished[0], output)
    return output, run(photos, output)


def database_record(output):
    return json.loads((output / "database.json").read_text())


def test_features_and_matches_are_those_of_the_run_without(finished, refined):
    for name in ("features.h5", "matches.h5"):
        assert (finished[0] / name).read_bytes() == (refined[0] / name).read_bytes()
    assert database_record(finished[0])["max_error_px"] == MAX_ERROR_PX
    assert database_record(refined[0])["max_error_px"] == REFINED_MAX_ERROR_PX


def test_the_model_is_made_of_the_refined_keypoints(finished, refined):
    output, report = refined
    assert report["num_registered"] == NUM_VIEWS
    assert report["mean_reprojection_error_px"] < finished[1]["mean_reprojection_error_px"]
    model = pycolmap.Reconstruction(str(output / "sparse" / "0"))
    with FeatureStore(output / REFINED) as after, FeatureStore(output / "features.h5") as before:
        for image in model.images.values():
            xy = np.array([point.xy for point in image.points2D]) - 0.5
            stored = [store.read_keypoints(image.name).xy.numpy() for store in (after, before)]
            np.testing.assert_allclose(xy, stored[0], atol=1e-3)
            assert np.abs(xy - stored[1]).max() > 0.01


def test_the_page_draws_the_keypoints_that_the_model_is_of(photos, finished, refined):
    for (output, _), name in ((finished, "features.h5"), (refined, REFINED)):
        run_files = RunFiles.read(output, photos / "images")
        assert run_files.find_store("features") == output / name
        assert run_files.find_store("matches") == output / "matches.h5"


def test_the_page_tells_how_many_were_refined(finished, refined):
    row = "Keypoints refined of those in tracks"
    figures = refined[1]["refinement"]
    told = f"{figures['num_refined']:,} of {figures['num_in_tracks']:,}"
    assert dict(_summary(refined[1]))[row] == told
    assert row not in dict(_summary(finished[1]))


def test_the_report_tells_of_it(finished, refined):
    figures = refined[1]["refinement"]
    assert figures["num_keypoints"] == refined[1]["num_keypoints"]
    assert 0 < figures["num_refined"] < figures["num_in_tracks"] < figures["num_keypoints"]
    assert sum(level["num_refined"] for level in figures["levels"]) == figures["num_refined"]
    assert figures["skipped"] == {}
    assert "refine" in refined[1]["seconds"]
    assert refined[1]["configuration"]["refine"] is True
    told = f"refined       {figures['num_refined']} of {figures['num_in_tracks']} keypoints in "
    assert told in format_report(refined[1])
    assert "refine" not in {*finished[1]["configuration"], *finished[1]["seconds"]}
    assert "refinement" not in finished[1]
    assert not (finished[0] / REFINED).exists()


@pytest.mark.slow
def test_a_finished_run_refines_nothing(photos, refined, tmp_path, monkeypatch):
    output = shutil.copytree(refined[0], tmp_path / "out")
    before = (output / REFINED).stat().st_mtime_ns, (output / "database.db").stat().st_mtime_ns
    monkeypatch.setattr(refined_features, "build_tracks", None)
    report = run(photos, output)
    assert (output / REFINED).stat().st_mtime_ns == before[0]
    assert report["refinement"] == refined[1]["refinement"]
    for key in ("num_points3D", "num_observations", "mean_reprojection_error_px"):
        assert report[key] == refined[1][key]


def test_a_run_without_after_one_with_it(photos, finished, refined, tmp_path):
    output = shutil.copytree(refined[0], tmp_path / "out")
    report = run(photos, output, refine=False)
    assert report["num_points3D"] == finished[1]["num_points3D"]
    assert "refinement" not in report
    assert database_record(output)["max_error_px"] == MAX_ERROR_PX
    assert (output / REFINED).read_bytes() == (refined[0] / REFINED).read_bytes()


@pytest.mark.slow
def test_a_photo_that_changed_is_refined_anew(photos, refined, tmp_path):
    output = shutil.copytree(refined[0], tmp_path / "out")
    images = shutil.copytree(photos / "images", tmp_path / "images")
    path = images / "view 00.png"
    cv2.imwrite(str(path), cv2.GaussianBlur(cv2.imread(str(path)), (0, 0), 0.8))
    report = run(photos, output, images=images)
    assert report["changed"] == ["view 00.png"]
    assert report["num_registered"] == NUM_VIEWS
    assert report["refinement"] != refined[1]["refinement"]
    path.unlink()
    report = run(photos, output, images=images)
    assert report["num_registered"] == NUM_VIEWS - 1
    assert report["refinement"]["skipped"] == {}  # it takes no part


def test_a_refined_file_of_others_stays(photos, refined, tmp_path):
    output = shutil.copytree(refined[0], tmp_path / "out")
    (output / REFINED).unlink()
    write_group(output / REFINED, "a.jpg", **plain())
    before = {path: path.read_bytes() for path in output.iterdir() if path.is_file()}
    with pytest.raises(FileExistsError, match=f"{REFINED} is there and was not refined by"):
        run(photos, output)
    assert {path: path.read_bytes() for path in output.iterdir() if path.is_file()} == before
    report = run(photos, output, overwrite=True)
    assert report["refinement"] == refined[1]["refinement"]


def test_a_finished_run_that_cannot_be_written_is_read(photos, refined, monkeypatch):
    output, access = refined[0], os.access
    monkeypatch.setattr(
        os, "access", lambda p, mode: access(p, mode) and not (mode & os.W_OK and p == output)
    )
    options = {"refine": True, "reference": None}
    stored = json.loads((output / "report.json").read_text())
    assert run(photos, output, **options) == stored


@pytest.mark.slow
def test_another_threshold_verifies_again(photos, refined, tmp_path):
    output = shutil.copytree(refined[0], tmp_path / "out")
    report = run(photos, output, max_error_px=0.5)
    assert report["pairs"]["num_inliers"] < refined[1]["pairs"]["num_inliers"]
    assert report["configuration"]["mapping"]["max_error_px"] == 0.5
    with pytest.raises(ValueError, match="max_error_px must be above 0, got 0"):
        run(photos, output, max_error_px=0)


@pytest.mark.slow
def test_the_command_line(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reconstruction, "_load_extractor", lambda _: SiftExtractor(200))
    arguments = [str(photos / "images"), str(tmp_path / "out"), "--conf", "rekd-fast", "--quiet"]
    assert main(["reconstruct", *arguments, "--max-error", "1.5"]) == 0
    assert "refined       " in capsys.readouterr().out
    assert database_record(tmp_path / "out")["max_error_px"] == 1.5
    assert main(["reconstruct", *arguments, "--max-error", "-1"]) == 2
    assert "max_error_px must be above 0, got -1" in capsys.readouterr().err
    out = tmp_path / "out"
    files = [str(out / "features.h5"), str(out / "matches.h5"), str(photos / "images")]
    assert main(["refine", *files, str(tmp_path / "r.h5"), "--json", "--quiet"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["num_refined"] > 0
    assert record["levels"][0]["num_refined"] > 0
    assert main(["refine", *files, str(tmp_path / "r.h5"), "--seed", "3"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["refine", *files[:2], str(tmp_path), str(tmp_path / "s.h5")]) == 2
    assert "none of the 5 images of" in capsys.readouterr().err
