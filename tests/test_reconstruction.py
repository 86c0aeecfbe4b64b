import json
import logging
import shutil
from dataclasses import asdict, replace

import cv2
import h5py
import numpy as np
import pytest

from rekd_hloc.config import MatchConfig, get_preset, with_max_keypoints
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.sfm import reconstruct as reconstruction
from rekd_hloc.sfm import stages as model_stages
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.sfm.reconstruct import ReconstructOptions, reconstruct, reconstruct_from_files
from rekd_hloc.sfm.report import format_report
from rekd_hloc.sfm.stages import MappingOptions
from rekd_hloc.storage.features import FeatureStore, MatchStore
from tests.corner_scene import FOCAL, SIZE, make_photos
from tests.helpers import textured_image
from tests.sift_extractor import SiftExtractor
from tests.synthetic_scene import make_scene, true_matches

NUM_VIEWS = 5
FILES = ["database.db", "database.json", "features.h5", "matches.h5", "pairs.txt", "report.json"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """``images`` and ``reference``; only to be read."""
    folder = tmp_path_factory.mktemp("photos")
    make_photos(folder, NUM_VIEWS)
    return folder


def run(photos, output, extractor=None, **options):
    settings = {"reference": photos / "reference", "device": "cpu"} | options
    return reconstruct(
        settings.pop("images", photos / "images"),
        output,
        extractor=extractor or SiftExtractor(400),
        **settings,
    )


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """Output folder and report of a run; only to be copied or read."""
    output = tmp_path_factory.mktemp("finished") / "new" / "out"
    return output, run(photos, output)


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished output that keeps the files' times."""
    return shutil.copytree(finished[0], tmp_path / "out")


def without_times(report):
    kept = {k: v for k, v in report.items() if k not in ("seconds", "peak_memory_mib")}
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
    assert sorted(path.name for path in output.iterdir()) == [*FILES, "sparse"]
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
    stages = ["extract", "match", "database", "verify", "map", "align", "total"]
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
    assert other["pairs"]["num_inliers"] != report["pairs"]["num_inliers"]


def test_a_second_run_goes_on_from_every_stage(finished, photos, copy, monkeypatch):
    record_path = copy / "database.json"
    record = json.loads(record_path.read_text())  # names the files at their first place
    record["files"] = [model_stages._stamp(copy / name) for name in ("features.h5", "matches.h5")]
    record_path.write_text(json.dumps(record))
    names = ("features.h5", "matches.h5", "database.json")
    times = {name: (copy / name).stat().st_mtime_ns for name in names}

    def refuse(*arguments):
        raise AssertionError("verified again")

    monkeypatch.setattr(pycolmap, "estimate_two_view_geometry", refuse)
    extractor = SiftExtractor(400)
    report = run(photos, copy, extractor)
    assert extractor.seen == []
    assert {name: (copy / name).stat().st_mtime_ns for name in names} == times
    assert without_times(report) == without_times(finished[1])


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
        photos, tmp_path / "out", camera_model="PINHOLE", camera_mode="single", intrinsics=known
    )
    model = pycolmap.Reconstruction(str(tmp_path / "out" / "sparse" / "0"))
    assert [camera.params.tolist() for camera in model.cameras.values()] == [known]
    assert report["rotation_error_deg"]["max"] < 0.3
    assert report["configuration"]["mapping"]["intrinsics"] == known


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


def test_photos_of_different_things_give_no_model_and_remove_the_old_one(photos, copy, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for index, image in enumerate(sorted((photos / "images").iterdir())[:3]):
        assert cv2.imwrite(str(images / image.name), textured_image(270, 360, seed=50 + index))
    report = run(photos, copy, SiftExtractor(150), images=images, overwrite=True)
    assert report["num_registered"] == 0
    assert report["unregistered"] == sorted(path.name for path in images.iterdir())
    assert "do the photos overlap" in report["diagnosis"]
    assert not (copy / "sparse").exists()


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
        ({"pairs": "exhaustiv"}, "exhaustive, sequential or a file"),
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
            match_images(*arguments, **options)
            patch.setattr(shutil, "disk_usage", lambda _: full)

        patch.setattr(reconstruction, "match_images", match_and_fill)
        with pytest.raises(OSError, match=r"no space left for .*database\.db.*free some space"):
            run(photos, output)
    assert sorted(path.name for path in output.iterdir() if "tmp" not in path.name) == [
        "features.h5",
        "matches.h5",
        "pairs.txt",
    ]
    extractor = SiftExtractor(400)
    report = run(photos, output, extractor)
    assert extractor.seen == []
    assert report["num_registered"] == NUM_VIEWS


class StubModel:
    def __init__(self, num_images):
        self.num_images = num_images

    def num_reg_images(self):
        return self.num_images


@pytest.mark.parametrize(
    ("sizes", "kept", "attempts"),
    [([4], 4, 1), ([0, 9], 9, 2), ([2, 3, 0], 3, 3), ([3, 2, 2], 3, 3), ([0, 0, 0], 0, 3)],
)
def test_a_bad_start_of_the_mapper_is_tried_again(tmp_path, monkeypatch, sizes, kept, attempts):
    seeds = []

    def map_scene(database, images, out, *, seed, **options):
        size = sizes[len(seeds)]
        seeds.append(seed)
        shutil.rmtree(out, ignore_errors=True)
        if size:
            out.mkdir()
            (out / "size").write_text(str(size))
        return [StubModel(size)] if size else []

    monkeypatch.setattr(model_stages, "map_scene", map_scene)
    names = [str(index) for index in range(8)]
    counts = dict.fromkeys(zip(names, names[1:], strict=False), (60, 50))
    options = MappingOptions(seed=2**31 - 1)
    state = model_stages.Run(tmp_path, tmp_path, options, None, False)
    models, tried = model_stages._map(state, tmp_path / "d.db", names, counts)
    assert tried == len(seeds) == attempts
    assert len(set(seeds)) == attempts
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert [model.num_images for model in models] == ([kept] if kept else [])
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == ({"sparse", "sparse/size"} if kept else set())
    if kept:
        assert (tmp_path / "sparse" / "size").read_text() == str(kept)


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


def write_hloc_files(folder, scene):
    """Features and matches as hloc's own programs write them, without scales and angles."""
    with FeatureStore(scene.features) as store, h5py.File(folder / "f.h5", "w") as out:
        counts = {}
        for name in scene.names:
            features = store.read(name)
            counts[name] = len(features)
            group = out.create_group(name)
            group["keypoints"] = features.keypoints.xy.numpy().astype(np.float16)
            group["descriptors"] = features.descriptors.T.numpy().astype(np.float16)
            group["scores"] = features.keypoints.score.numpy().astype(np.float16)
            group["image_size"] = np.array(features.image_size)
    with h5py.File(folder / "m.h5", "w") as out:
        for a, b in scene.pairs:
            partner = np.full(counts[a], -1, np.int16)
            rows = true_matches(scene, a, b)
            partner[rows[:, 0]] = rows[:, 1]
            group = out.create_group(f"{a}/{b}")
            group["matches0"] = partner
            group["matching_scores0"] = (partner >= 0).astype(np.float16)


@pytest.mark.parametrize("with_pairs", [True, False])
def test_files_of_any_hloc_extractor_become_a_model(tmp_path, with_pairs):
    scene = make_scene(tmp_path / "scene")
    write_hloc_files(tmp_path, scene)
    before = [(tmp_path / name).read_bytes() for name in ("f.h5", "m.h5")]
    pairs = None
    if with_pairs:
        pairs = tmp_path / "pairs.txt"
        pairs.write_text("\n".join(f"{a} {b}" for a, b in scene.pairs[:12]))
    report = reconstruct_from_files(
        tmp_path / "f.h5",
        tmp_path / "m.h5",
        pairs,
        tmp_path / "no images",
        tmp_path / "out",
        reference=scene.reference,
    )
    assert report["num_registered"] == report["num_images"] == report["num_compared"] == 6
    assert report["pairs"]["num_pairs"] == (12 if with_pairs else 15)
    assert report["rotation_error_deg"]["max"] < 0.5
    assert report["weights"] == {}
    assert [(tmp_path / name).read_bytes() for name in ("f.h5", "m.h5")] == before


def test_files_without_an_image_or_with_a_missing_pair_are_named(tmp_path):
    scene = make_scene(tmp_path / "scene", num_images=3, num_points=40)
    with FeatureStore.resume(tmp_path / "empty.h5", {}):
        pass
    arguments = (scene.matches, None, tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match=r"empty\.h5 holds features of no image"):
        reconstruct_from_files(tmp_path / "empty.h5", *arguments)
    with MatchStore.resume(tmp_path / "none.h5", {}):
        pass
    pairs = tmp_path / "pairs.txt"
    pairs.write_text(" ".join(scene.names[:2]))
    with pytest.raises(ValueError, match=r"none\.h5 has no matches of"):
        reconstruct_from_files(
            scene.features, tmp_path / "none.h5", pairs, tmp_path, tmp_path / "out"
        )


def test_the_database_is_made_again_when_something_it_depends_on_changes(tmp_path):
    scene = make_scene(tmp_path / "scene", num_images=3, num_points=60)
    output = tmp_path / "out"

    def build(options):
        arguments = (scene.features, scene.matches, None, tmp_path, output)
        reconstruct_from_files(*arguments, options=options)
        return (output / "database.json").stat().st_mtime_ns

    options = MappingOptions()
    first = build(options)
    assert build(options) == first
    assert build(replace(options, num_threads=2)) == first  # of the mapper alone
    second = build(replace(options, seed=1))
    assert second > first
    third = build(replace(options, seed=1, camera_mode="single"))
    assert third > second
    (output / "database.json").write_text("damaged")
    assert build(replace(options, seed=1, camera_mode="single")) > third
    (output / "database.db").unlink()
    build(options)
    assert (output / "database.db").is_file()


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
    assert reports[0]["configuration"]["mapping"] == asdict(options.mapping)
    assert reports[0]["num_registered"] == reports[1]["num_registered"]
    with pytest.raises(TypeError, match="mappper"):
        reconstruct(photos / "images", tmp_path / "c", mappper="global")
