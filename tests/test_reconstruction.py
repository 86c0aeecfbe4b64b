"""From a folder of images to a model and a report."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from rekd_hloc.config import MatchConfig, get_preset, with_max_keypoints
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.sfm import kept_model
from rekd_hloc.sfm import reconstruct as reconstruction
from rekd_hloc.sfm.database_sources import file_stamp
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.sfm.reconstruct import ReconstructOptions, reconstruct
from rekd_hloc.sfm.report import format_report
from rekd_hloc.storage.features import FeatureStore, MatchStore
from tests.corner_reconstruction import NUM_VIEWS, run
from tests.corner_scene import FOCAL, SIZE
from tests.sift_extractor import SiftExtractor

FILES = [
    *("database.db", "database.json", "features-refined.h5", "features.h5", "matches.h5"),
    *("pairs.txt", "report.json"),
]


PASSING = ("seconds", "work_seconds", "peak_memory_mib")
"""What no two runs share."""


def without_times(report):
    kept = {k: v for k, v in report.items() if k not in PASSING}
    return json.loads(json.dumps(kept))


def test_photos_become_a_model_with_the_true_poses(finished, photos):
    output, report = finished
    assert report["num_images"] == report["num_registered"] == report["num_compared"] == NUM_VIEWS
    assert report["num_models"] == 1
    assert report["unregistered"] == []
    assert report["diagnosis"] == ""
    assert report["skipped"] == {}
    assert report["rotation_error_deg"]["median"] <= report["rotation_error_deg"]["max"] < 1.0
    assert report["center_error_rel"]["median"] <= report["center_error_rel"]["max"] < 0.05
    assert sorted(path.name for path in output.iterdir()) == [".rekd_hloc", *FILES, "sparse"]
    model = pycolmap.Reconstruction(str(output / "sparse" / "0"))
    assert model.num_points3D() == report["num_points3D"] > 100
    assert model.compute_num_observations() == report["num_observations"]
    assert model.compute_mean_track_length() == pytest.approx(report["mean_track_length"])
    assert 0 < report["mean_reprojection_error_px"] < 1
    colours = {tuple(point.color) for point in model.points3D.values()}
    assert len(colours) > 10


def test_report_holds_every_figure_and_its_origin(finished):
    output, report = finished
    assert json.loads((output / "report.json").read_text()) == report
    pairs = report["pairs"]
    assert pairs["num_pairs"] == NUM_VIEWS * (NUM_VIEWS - 1) // 2
    with MatchStore(output / "matches.h5") as store:
        counts = {pair: len(store.read(*pair)) for pair in store.pairs()}
    assert pairs["num_matches"] == sum(counts.values())
    assert 0 < pairs["num_inliers"] <= pairs["num_matches"]
    weakest = pairs["weakest"][0]
    assert weakest["inliers"] == min(entry["inliers"] for entry in pairs["weakest"])
    assert counts[tuple(weakest["images"])] == weakest["matches"]
    stages = ["extract", "match", "refine", "database", "verify", "map", "align", "total"]
    assert list(report["seconds"]) == stages
    assert all(seconds >= 0 for seconds in report["seconds"].values())
    assert report["peak_memory_mib"] > 50
    assert report["seed"] == 0
    assert report["configuration"]["matching"]["filter"] == "density"
    assert report["configuration"]["matching"]["ratio"] == 0.95
    assert report["configuration"]["mapping"]["camera_model"] == "SIMPLE_RADIAL"
    assert report["versions"]["pycolmap"] == pycolmap.__version__
    text = format_report(report)
    assert f"{NUM_VIEWS} of {NUM_VIEWS} registered" in text
    assert f"median {report['rotation_error_deg']['median']:.3f}" in text


def test_a_reconstruction_has_a_budget_of_its_own(photos, tmp_path, monkeypatch):
    asked = []

    def from_pretrained(conf, *, device, config):
        asked.append((conf, config))
        raise KeyboardInterrupt

    monkeypatch.setattr(Extractor, "from_pretrained", from_pretrained)
    preset = get_preset("rekd-fast")
    assert preset.detector.max_keypoints == 2048
    for given in ({}, {"config": preset}):
        with pytest.raises(KeyboardInterrupt):
            reconstruct(photos / "images", tmp_path / "out", conf="rekd-fast", **given)
    assert asked == [
        ("rekd-fast", with_max_keypoints(preset, 4096)),
        ("rekd-fast", preset),
    ]


@pytest.mark.slow
def test_preset_configuration_and_weights_are_taken_from_the_extractor(photos, tmp_path):
    config = {"descriptor": {"patch_size_px": 36.0}}
    extractor = SiftExtractor(
        200,
        preset="mine",
        config=json.dumps(config),
        config_hash="abc",
        detector_weights="123",
        descriptor_weights="456",
    )
    report = run(photos, tmp_path / "out", extractor, pairs="sequential", overlap=1)
    assert report["configuration"]["preset"] == "mine"
    assert report["configuration"]["extraction"] == config
    assert report["configuration"]["extraction_hash"] == "abc"
    assert report["weights"] == {"detector": "123", "descriptor": "456"}
    with (
        FeatureStore(tmp_path / "out" / "features.h5") as store,
        pycolmap.Database.open(str(tmp_path / "out" / "database.db")) as database,
    ):
        rows = database.read_keypoints(1)
        scale = rows[:, 2] if rows.shape[1] == 4 else np.hypot(rows[:, 2], rows[:, 4])
        expected = store.read(store.names()[0]).keypoints.scale.numpy() * 3  # 36 / 12
    np.testing.assert_allclose(scale, expected, rtol=1e-4)


@pytest.mark.slow
def test_one_seed_gives_one_model_and_another_seed_is_used(finished, photos, copy, tmp_path):
    output, report = finished
    again = run(photos, tmp_path / "again")
    assert without_times(again) == without_times(report)
    for name in ("cameras", "images", "points3D"):
        files = [folder / "sparse" / "0" / f"{name}.bin" for folder in (output, tmp_path / "again")]
        assert files[0].read_bytes() == files[1].read_bytes()
    other = run(photos, copy, seed=1)
    assert other["seed"] == 1
    assert other["num_registered"] == NUM_VIEWS
    assert other["pairs"]["num_matches"] == report["pairs"]["num_matches"]
    points = [folder / "sparse" / "0" / "points3D.bin" for folder in (output, copy)]
    assert points[0].read_bytes() != points[1].read_bytes()


def test_a_second_run_goes_on_from_every_stage(finished, photos, copy, monkeypatch):
    record_path = copy / "database.json"
    record = json.loads(record_path.read_text())  # names the files at their first place
    record["files"] = [file_stamp(copy / name) for name in ("features-refined.h5", "matches.h5")]
    record_path.write_text(json.dumps(record))
    names = ("features.h5", "features-refined.h5", "matches.h5", "database.json")
    times = {name: (copy / name).stat().st_mtime_ns for name in names}

    def refuse(*arguments):
        raise AssertionError("verified again")

    monkeypatch.setattr(pycolmap, "estimate_two_view_geometry", refuse)
    monkeypatch.setattr(pycolmap, "incremental_mapping", refuse)
    extractor = SiftExtractor(400)
    report = run(photos, copy, extractor)
    assert extractor.seen == []
    assert {name: (copy / name).stat().st_mtime_ns for name in names} == times
    assert without_times(report) == without_times(finished[1])
    work = report["work_seconds"]
    stages = ("extract", "refine", "verify", "map")
    assert {work[k] == finished[1]["seconds"][k] for k in stages} == {True}
    assert report.reconstruction.num_reg_images() == report["num_registered"]


@pytest.mark.parametrize("what", ["killed", "overwrite", "options", "version"])
def test_a_model_is_made_again_unless_its_database_was_mapped_alike(
    photos, copy, monkeypatch, what
):
    record_path = copy / "database.json"
    record = json.loads(record_path.read_text())
    record["files"] = [file_stamp(copy / name) for name in ("features-refined.h5", "matches.h5")]
    if what == "killed":  # before it had its model
        del record["mapped"]
    record_path.write_text(json.dumps(record))
    mapped, original = [], pycolmap.incremental_mapping

    def count(*arguments, **options):
        mapped.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(pycolmap, "incremental_mapping", count)
    if what == "version":
        monkeypatch.setattr(kept_model, "__version__", "0.0.1")
    options = {"overwrite": {"overwrite": True}, "options": {"num_threads": 2}}.get(what, {})
    report = run(photos, copy, SiftExtractor(400), **options)
    assert mapped
    assert report["num_registered"] > 0
    again = run(photos, copy, SiftExtractor(400), num_threads=options.get("num_threads", 1))
    assert len(mapped) == len(report["attempts"])
    assert again["num_registered"] == report["num_registered"]


@pytest.mark.slow
def test_a_new_image_joins_what_is_there(photos, tmp_path):
    images = shutil.copytree(photos / "images", tmp_path / "images")
    last = sorted(images.iterdir())[-1]
    later = last.rename(tmp_path / "later.png")
    first = run(photos, tmp_path / "out", images=images)
    assert first["num_images"] == NUM_VIEWS - 1
    later.rename(last)
    extractor = SiftExtractor(400)
    report = run(photos, tmp_path / "out", extractor, images=images)
    assert len(extractor.seen) == 1
    assert report["num_registered"] == NUM_VIEWS
    assert report["pairs"]["num_pairs"] == 10


def test_a_changed_photo_is_made_again_and_a_removed_one_leaves_the_model(photos, copy, tmp_path):
    images = shutil.copytree(photos / "images", tmp_path / "images")
    first, second, *others = sorted(path.name for path in images.iterdir())
    shutil.copyfile(images / second, images / first)
    (images / second).unlink()
    report = run(photos, copy, images=images, reference=None)
    assert (report["num_changed"], report["changed"], report["removed"]) == (1, [first], [second])
    assert report["num_rematched"] == NUM_VIEWS - 2
    with pycolmap.Database.open(str(copy / "database.db")) as database:
        assert sorted(i.name for i in database.read_all_images()) == sorted([first, *others])
    text = format_report(report)
    assert f"1 image changed since and was extracted again: {first}" in text
    assert f"no longer in the folder: {second}" in text
    with FeatureStore(copy / "features.h5") as store:
        assert second in store
    fresh = run(photos, tmp_path / "fresh", images=images, reference=None)
    for key in ("num_points3D", "mean_reprojection_error_px", "num_keypoints"):
        assert report[key] == fresh[key]
    (images / first).write_bytes(b"half of a photo")
    report = run(photos, copy, images=images, reference=None)
    assert "its features in features.h5 are of what it was before" in report["skipped"][first]
    with pycolmap.Database.open(str(copy / "database.db")) as database:
        assert sorted(i.name for i in database.read_all_images()) == others


@pytest.mark.slow
def test_options_of_old_files_are_not_mixed_but_overwritten_on_request(photos, copy):
    with pytest.raises(ValueError, match=r"features\.h5 was made with other settings.*overwrite"):
        run(photos, copy, SiftExtractor(200, size="small"))
    with pytest.raises(ValueError, match=r"matches\.h5 was made with other settings.*ratio"):
        run(photos, copy, matching=MatchConfig(ratio=0.9))
    extractor = SiftExtractor(200, size="small")
    report = run(photos, copy, extractor, matching=MatchConfig(ratio=0.9), overwrite=True)
    assert len(extractor.seen) == NUM_VIEWS
    assert report["num_keypoints"] <= 205 * NUM_VIEWS
    assert report["configuration"]["matching"]["ratio"] == 0.9


def test_known_intrinsics_are_kept(photos, tmp_path):
    known = [FOCAL, FOCAL, SIZE[0] / 2, SIZE[1] / 2]
    report = run(
        photos,
        tmp_path / "out",
        camera_model="PINHOLE",
        camera_mode="single",
        intrinsics=known,
    )
    model = pycolmap.Reconstruction(str(tmp_path / "out" / "sparse" / "0"))
    assert [camera.params.tolist() for camera in model.cameras.values()] == [known]
    assert report["rotation_error_deg"]["max"] < 0.3
    assert report["configuration"]["mapping"]["intrinsics"] == known


@pytest.mark.slow
def test_the_named_preset_is_loaded_when_no_extractor_is_given(photos, tmp_path, monkeypatch):
    asked = []

    def load(options):
        asked.append((options.conf, options.device, options.config))
        return SiftExtractor(100)

    monkeypatch.setattr(reconstruction, "_load_extractor", load)
    reconstruct(
        photos / "images",
        tmp_path / "out",
        conf="rekd-fast",
        device="cpu",
        pairs="sequential",
        overlap=1,
    )
    assert asked == [("rekd-fast", "cpu", None)]


@pytest.mark.slow
def test_options_in_one_object_and_by_name_are_the_same(photos, tmp_path):
    options = ReconstructOptions(overlap=2, pairs="sequential", seed=3, device="cpu")
    reports = [
        reconstruct(photos / "images", tmp_path / "a", options, extractor=SiftExtractor(200)),
        reconstruct(
            photos / "images",
            tmp_path / "b",
            replace(options, seed=0),
            seed=3,
            extractor=SiftExtractor(200),
        ),
    ]
    assert reports[0]["configuration"] == reports[1]["configuration"]
    assert reports[0]["configuration"]["mapping"] == options.mapping.to_json()
    assert reports[0]["num_registered"] == reports[1]["num_registered"]
    with pytest.raises(TypeError, match="mappper"):
        reconstruct(photos / "images", tmp_path / "c", mappper="global")
