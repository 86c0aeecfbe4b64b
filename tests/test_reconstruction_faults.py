"""Reconstructions with files that cannot be used, mistakes and full disks."""

import json
import logging
import shutil

import cv2
import numpy as np
import pytest

from rekd_hloc.sfm import reconstruct as reconstruction
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.sfm.report import format_report
from rekd_hloc.storage.features import FeatureStore
from tests.corner_reconstruction import NUM_VIEWS, run
from tests.corner_scene import SIZE
from tests.helpers import textured_image
from tests.sift_extractor import SiftExtractor


def add_bad_files(images):
    (images / "empty.png").touch()
    (images / "text.jpg").write_text("no image")
    return images


def test_unreadable_images_are_counted_named_and_do_not_end_the_run(photos, tmp_path):
    images = add_bad_files(shutil.copytree(photos / "images", tmp_path / "images"))
    listed = [f"{a.name} {b.name}" for a in images.glob("v*") for b in images.glob("v*") if a < b]
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("\n".join([*listed, "empty.png text.jpg", "view 00.png empty.png"]))
    report = run(photos, tmp_path / "out", images=images, pairs=pairs)
    assert report["num_images"] == NUM_VIEWS + 2
    assert report["num_registered"] == NUM_VIEWS
    assert sorted(report["skipped"]) == ["empty.png", "text.jpg"]
    assert report["pairs"]["num_pairs"] == len(listed)
    assert "skipped       empty.png" in format_report(report)


def test_masks_keep_keypoints_out(photos, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for image in (photos / "images").iterdir():
        mask = np.full(SIZE[::-1], 255, np.uint8)
        mask[: SIZE[1] // 2] = 0
        assert cv2.imwrite(str(masks / f"{image.name}.png"), mask)
    report = run(photos, tmp_path / "out", mask_dir=masks, pairs="sequential", overlap=1)
    assert report["configuration"]["masks"] == str(masks)
    with FeatureStore(tmp_path / "out" / "features.h5") as store:
        for name in store.names():
            assert store.read(name).keypoints.xy[:, 1].min() > SIZE[1] // 2 - 2


def test_an_empty_folder_is_an_error_before_anything_is_written(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no image"):
        run(photos, tmp_path / "out", images=tmp_path / "empty")
    assert not (tmp_path / "out").exists()


def test_one_image_keeps_its_features_and_the_report_says_what_to_do(photos, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(photos / "images" / "view 00.png", images)
    report = run(photos, tmp_path / "out", images=images)
    assert report["num_images"] == 1
    assert report["num_registered"] == report["num_models"] == report["num_points3D"] == 0
    assert report["mean_reprojection_error_px"] == 0.0
    assert "add photos" in report["diagnosis"]
    assert report["alignment_failure"] == "there is no model"
    assert report["rotation_error_deg"] is None
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert "add photos" in format_report(report)
    with FeatureStore(tmp_path / "out" / "features.h5") as store:
        assert store.names() == ["view 00.png"]


def test_images_that_are_all_unreadable_give_a_report_too(photos, tmp_path):
    (tmp_path / "images").mkdir()
    report = run(photos, tmp_path / "out", images=add_bad_files(tmp_path / "images"))
    assert report["num_images"] == 2
    assert report["num_registered"] == 0
    assert len(report["skipped"]) == 2
    assert "No image could be read" in report["diagnosis"]


def test_photos_of_different_things_give_no_model_and_set_the_old_one_aside(photos, copy, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for index, image in enumerate(sorted((photos / "images").iterdir())[:3]):
        assert cv2.imwrite(str(images / image.name), textured_image(270, 360, seed=50 + index))
    report = run(photos, copy, SiftExtractor(150, more="x"), images=images, overwrite=True)
    assert report["num_registered"] == 0
    assert report["unregistered"] == sorted(path.name for path in images.iterdir())
    assert "do the photos overlap" in report["diagnosis"]
    assert not (copy / "sparse").exists()
    assert report["previous_model"] == "sparse.previous"
    assert (
        pycolmap.Reconstruction(str(copy / "sparse.previous" / "0")).num_reg_images() == NUM_VIEWS
    )


def test_equal_names_in_folders_and_names_of_any_letters_are_told_apart(photos, tmp_path, caplog):
    images = tmp_path / "images"
    names = ["a.png", "sub/a.png", "sub dir/ä ö.png", "sub dir/写真.png", " e.png"]
    for name, image in zip(names, sorted((photos / "images").iterdir()), strict=True):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, images / name)
    with caplog.at_level(logging.WARNING):
        report = run(photos, tmp_path / "out", images=images, reference=None)
    assert report["num_registered"] == NUM_VIEWS
    assert "rotation_error_deg" not in report
    assert "pairs.txt is not written" in caplog.text
    model = pycolmap.Reconstruction(str(tmp_path / "out" / "sparse" / "0"))
    assert sorted(image.name for image in model.images.values()) == sorted(names)


def test_an_output_inside_the_image_folder_is_not_read_as_photos(photos, tmp_path):
    images = shutil.copytree(photos / "images", tmp_path / "images")
    output = images / "out"
    output.mkdir()
    assert cv2.imwrite(str(output / "plot.png"), textured_image(50, 50))
    report = run(photos, output, images=images)
    assert report["num_images"] == report["num_registered"] == NUM_VIEWS
    with pytest.raises(ValueError, match="is the image folder itself"):
        run(photos, images, images=images)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mapper": "globl"}, "no mapper 'globl'"),
        ({"camera_model": "PINHOL"}, "no camera model 'PINHOL'"),
        ({"camera_mode": "each"}, "no camera mode 'each'"),
        ({"intrinsics": [1.0]}, "SIMPLE_RADIAL takes"),
        ({"seed": -1}, "seed must not be negative"),
        ({"pairs": "exhaustiv"}, "exhaustive, sequential, retrieval, loops, gps or a file"),
        ({"pairs": "sequential", "overlap": 0}, "overlap must be at least 1"),
        ({"reference": "nowhere"}, "no reference folder"),
        ({"mask_dir": "nowhere"}, "no mask folder"),
    ],
)
def test_a_mistake_is_found_before_the_first_image(photos, tmp_path, options, words):
    for name in ("reference", "mask_dir"):
        if name in options:
            options = {**options, name: tmp_path / options[name]}
    extractor = SiftExtractor()
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        run(photos, tmp_path / "out", extractor, **options)
    assert extractor.seen == []


def test_an_output_that_cannot_be_written_is_named(photos, tmp_path):
    (tmp_path / "file").touch()
    extractor = SiftExtractor()
    with pytest.raises(OSError, match="file"):
        run(photos, tmp_path / "file" / "out", extractor)
    assert extractor.seen == []


def test_a_disk_that_fills_up_after_matching_loses_nothing(photos, tmp_path, monkeypatch):
    output = tmp_path / "out"
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    match_images = reconstruction.match_images
    with monkeypatch.context() as patch:

        def match_and_fill(*arguments, **options):
            summary = match_images(*arguments, **options)
            patch.setattr(shutil, "disk_usage", lambda _: full)
            return summary

        patch.setattr(reconstruction, "match_images", match_and_fill)
        with pytest.raises(OSError, match=r"no space left for .*verified\.db.*free some space"):
            run(photos, output)
    assert sorted(path.name for path in output.iterdir() if "tmp" not in path.name) == [
        ".rekd_hloc",
        "features-refined.h5",
        "features.h5",
        "matches.h5",
        "pairs.txt",
    ]
    extractor = SiftExtractor(400)
    report = run(photos, output, extractor)
    assert extractor.seen == []
    assert report["num_registered"] == NUM_VIEWS
