"""Cameras from EXIF, guesses and intrinsics: in the database, and refused before the work."""

import json
import math

import cv2
import pytest
from PIL import ExifTags, Image, TiffImagePlugin

from rekd_hloc.cli.main import main
from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.cameras import CameraOptions
from rekd_hloc.sfm.database import export_database
from rekd_hloc.sfm.image_headers import read_header
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.sfm.reconstruct import reconstruct
from rekd_hloc.sfm.report import format_report
from rekd_hloc.sfm.stages import MappingOptions
from rekd_hloc.storage.features import FeatureStore
from tests.corner_scene import FOCAL, SIZE, make_photos
from tests.helpers import random_features
from tests.sift_extractor import SiftExtractor

DEFAULT = 1.2 * 64
TAGS = ExifTags.Base
RATIO = TiffImagePlugin.IFDRational
CANON = {TAGS.Make: "Canon", TAGS.Model: "Canon EOS 5D Mark II"}
"""A camera whose sensor COLMAP knows."""


def write_photo(path, size=(64, 48), camera=None, **details):
    """A grey JPEG with EXIF; ``details`` are tags of the photo by their names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif.update(camera if camera is not None else {TAGS.Make: "ACME", TAGS.Model: "One"})
    exif.get_ifd(ExifTags.IFD.Exif).update({TAGS[name]: value for name, value in details.items()})
    Image.new("L", size, 128).save(path, exif=exif)


def export(folder, photos, **options):
    """Write photos, given as arguments of :func:`write_photo`, and return their cameras."""
    entries = {}
    for name, photo in photos.items():
        write_photo(folder / "images" / name, **photo)
        entries[name] = random_features(3, photo.get("size", (64, 48)))
    with FeatureStore.resume(folder / "f.h5", {}) as store:
        for name, features in entries.items():
            store.write(name, features)
    with FeatureStore(folder / "f.h5") as store:
        export_database(folder / "d.db", folder / "images", store, None, [], **options)
    with compat.quiet(), pycolmap.Database.open(str(folder / "d.db")) as database:
        cameras = {camera.camera_id: camera for camera in database.read_all_cameras()}
        return {image.name: cameras[image.camera_id] for image in database.read_all_images()}


@pytest.mark.parametrize(
    "photo",
    [
        {"FocalLengthIn35mmFilm": 1},
        {"FocalLengthIn35mmFilm": 65535},
        {"FocalLength": RATIO(2400, 1), "camera": CANON},
        {"FocalLength": RATIO(0, 0), "camera": CANON},
        {"FocalLength": RATIO(5, 0), "camera": CANON},
        {"FocalLengthIn35mmFilm": 35, "ExifImageWidth": 4000, "ExifImageHeight": 2000},
        {"FocalLengthIn35mmFilm": 35, "ExifImageWidth": 3000, "ExifImageHeight": 3000},
    ],
)
def test_a_focal_length_that_cannot_be_is_not_trusted(tmp_path, caplog, photo):
    camera = export(tmp_path, {"a.jpg": photo})["a.jpg"]
    assert camera.params[0] == pytest.approx(DEFAULT)
    assert not camera.has_prior_focal_length
    assert "'a.jpg'" in caplog.text
    assert "--focal-guess" in caplog.text


@pytest.mark.parametrize(
    "photo",
    [
        {},
        {"FocalLengthIn35mmFilm": 0},
        {"FocalLength": -5.0, "camera": CANON},
        {"FocalLength": RATIO(24, 1), "camera": {}},
    ],
)
def test_photos_without_a_focal_length_start_from_the_default_in_silence(tmp_path, caplog, photo):
    camera = export(tmp_path, {"a.jpg": photo})["a.jpg"]
    assert (camera.params[0], camera.has_prior_focal_length) == (pytest.approx(DEFAULT), False)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "photo",
    [
        {"FocalLengthIn35mmFilm": 28},
        {"FocalLengthIn35mmFilm": 28, "ExifImageWidth": 4000, "ExifImageHeight": 3000},
        {"FocalLengthIn35mmFilm": 28, "ExifImageWidth": 3000, "ExifImageHeight": 4000},
        {"FocalLength": RATIO(24, 1), "camera": CANON},
    ],
)
def test_a_focal_length_that_can_be_is_trusted_as_colmap_does(tmp_path, caplog, photo):
    camera = export(tmp_path, {"a.jpg": photo})["a.jpg"]
    expected = pycolmap.infer_camera_from_image(str(tmp_path / "images" / "a.jpg"))
    assert camera.has_prior_focal_length
    assert camera.params.tolist() == expected.params.tolist() != [pytest.approx(DEFAULT)]
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("options", "focal"),
    [
        ({"ignore_exif": True}, DEFAULT),
        ({"focal_guess": 0.8}, 0.8 * 64),
        ({"focal_guess": 55.0}, 55.0),
        ({"focal_guess": 55.0, "ignore_exif": True}, 55.0),
        ({"focal_guess": 0.8, "camera_mode": "single"}, 0.8 * 64),
    ],
)
def test_guess_and_default_go_before_exif_and_cameras_are_shared_as_before(
    tmp_path, options, focal
):
    photo = {"FocalLengthIn35mmFilm": 28}
    cameras = export(tmp_path, {"a.jpg": photo, "b.jpg": photo, "c.jpg": {}}, **options)
    for camera in cameras.values():
        assert camera.mean_focal_length() == pytest.approx(focal)
        assert not camera.has_prior_focal_length
    assert cameras["a.jpg"].camera_id == cameras["b.jpg"].camera_id
    is_single = options.get("camera_mode") == "single"
    assert (cameras["c.jpg"].camera_id == cameras["a.jpg"].camera_id) == is_single


@pytest.mark.parametrize("model", ["OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE"])
@pytest.mark.parametrize(
    ("options", "focal"),
    [({}, 0.5 * 64), ({"focal_guess": 0.4}, 0.4 * 64), ({"ignore_exif": True}, 0.5 * 64)],
)
def test_a_fisheye_starts_wide_and_counts_as_known(tmp_path, model, options, focal):
    """COLMAP 4.2 verifies no pair of fisheyes whose focal length is not marked as known."""
    photos = {"a.jpg": {}, "b.jpg": {"FocalLengthIn35mmFilm": 1}}
    for camera in export(tmp_path, photos, camera_model=model, **options).values():
        assert camera.mean_focal_length() == pytest.approx(focal)
        assert camera.has_prior_focal_length
    trusted = export(tmp_path / "2", {"a.jpg": {"FocalLengthIn35mmFilm": 15}}, camera_model=model)[
        "a.jpg"
    ]
    assert trusted.mean_focal_length() == pytest.approx(15 / 43.27 * 80, rel=1e-3)


def test_photos_that_colmap_cannot_read_get_their_focal_length_from_exif_too(tmp_path, monkeypatch):
    photos = {
        "a.jpg": {"FocalLengthIn35mmFilm": 28},
        "b.jpg": {"FocalLengthIn35mmFilm": 28},
        "c.jpg": {"FocalLengthIn35mmFilm": 1},
        "d.jpg": {"FocalLengthIn35mmFilm": 28, "ExifImageWidth": 90, "ExifImageHeight": 30},
    }
    known = export(tmp_path / "read", photos)
    monkeypatch.setattr(pycolmap, "import_images", lambda *_: None)
    cameras = export(tmp_path / "unread", photos)
    for name, camera in cameras.items():
        assert camera.params == pytest.approx(known[name].params)
        assert camera.has_prior_focal_length == known[name].has_prior_focal_length
    assert cameras["a.jpg"].camera_id == cameras["b.jpg"].camera_id
    ignored = export(tmp_path / "ignored", photos, ignore_exif=True)
    assert all(camera.params[0] == pytest.approx(DEFAULT) for camera in ignored.values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"focal_guess": 0}, "focal_guess must be pixels above 10, or a factor"),
        ({"focal_guess": -500}, "focal_guess must be"),
        ({"focal_guess": math.nan}, "focal_guess must be"),
        ({"focal_guess": math.inf}, "focal_guess must be"),
        ({"focal_guess": 500, "intrinsics": [500, 32, 24, 0]}, "contradict each other"),
        ({"intrinsics": [math.nan, 32, 24, 0]}, "intrinsics must be finite"),
        ({"intrinsics": [500, math.inf, 24, 0]}, "intrinsics must be finite"),
        ({"intrinsics": [-500, 32, 24, 0]}, "focal lengths above 0"),
        ({"intrinsics": [0, 32, 24, 0]}, "focal lengths above 0"),
    ],
)
def test_numbers_that_no_camera_has_are_refused(options, words):
    for kind in (CameraOptions, MappingOptions):
        with pytest.raises(ValueError, match=words):
            kind(**options)


MIXED = {"a.png": SIZE, "b.png": SIZE, "sub/c.png": SIZE[::-1]}
TWO_FOLDERS = {"a.png": SIZE, "sub/b.png": SIZE, "sub/c.png": (90, 90)}


@pytest.mark.parametrize(
    ("sizes", "options", "words"),
    [
        (MIXED, {"camera_mode": "single"}, ["one size", "'a.png' is 360x270", "'sub/c.png' 270x3"]),
        (TWO_FOLDERS, {"camera_mode": "per_folder"}, ["'sub/b.png' is 360", "'sub/c.png' 90x90"]),
        (TWO_FOLDERS, {"camera_mode": "single"}, ["use the camera mode auto or per_image"]),
        (TWO_FOLDERS, {"intrinsics": [340, 180, 135, 0]}, ["for 360x270 px", "'sub/c.png' 90x90"]),
        (MIXED, {"intrinsics": [340, 190, 135, 0]}, ["'sub/c.png' is 270x360", "left or right"]),
        (
            MIXED,
            {"intrinsics": [34, 180, 135, 0]},
            ["34 px is not possible for 'a.png' of 360x270"],
        ),
        (MIXED, {"focal_guess": 9000}, ["9000 px is not possible for 'a.png'", "focal_guess"]),
    ],
)
def test_cameras_that_do_not_fit_the_photos_are_refused_before_any_work(
    tmp_path, sizes, options, words
):
    images = tmp_path / "images"
    for name, size in sizes.items():
        write_photo(images / name, size)
    extractor = SiftExtractor()
    with pytest.raises(ValueError, match="px|one size") as caught:
        reconstruct(images, tmp_path / "out", extractor=extractor, **options)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert extractor.seen == []
    assert not (tmp_path / "out").exists()


def test_camera_mode_per_folder_takes_a_size_for_each_folder(tmp_path):
    cameras = export(
        tmp_path,
        {"a/1.png": {}, "a/2.png": {}, "b/1.png": {"size": (48, 64)}},
        camera_mode="per_folder",
    )
    assert cameras["a/1.png"].camera_id == cameras["a/2.png"].camera_id
    assert (cameras["b/1.png"].width, cameras["b/1.png"].height) == (48, 64)


def test_the_command_line_knows_the_options_of_cameras(tmp_path, capsys):
    export(tmp_path, {"a.jpg": {"FocalLengthIn35mmFilm": 28}, "b.jpg": {"size": (48, 64)}})
    images = ["--images", str(tmp_path / "images")]

    def run_export(name, *options):
        path = tmp_path / name
        return main(["export", str(tmp_path / "f.h5"), str(path), *images, *options])

    for name, options, expected in (
        ("1.db", ["--ignore-exif"], [DEFAULT, DEFAULT]),
        ("2.db", ["--focal-guess", "70"], [70, 70]),
        ("3.db", ["--intrinsics", "66,32,24,0"], [66, 66]),
    ):
        assert run_export(name, *options) == 0
        with compat.quiet(), pycolmap.Database.open(str(tmp_path / name)) as database:
            focals = [camera.mean_focal_length() for camera in database.read_all_cameras()]
        assert focals == pytest.approx(expected)
    for options, words in (
        (["--camera-mode", "single"], "'b.jpg' 48x64"),
        (["--focal-guess", "nan"], "focal_guess must be"),
        (["--intrinsics", "66,300,24,0"], "far from the centre"),
    ):
        assert run_export("4.db", *options) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "4.db").exists()


def test_a_header_says_what_exif_knows_and_survives_damage(tmp_path):
    write_photo(tmp_path / "a.jpg", camera={**CANON, TAGS.Orientation: 6}, FocalLength=RATIO(5, 1))
    header = read_header(tmp_path / "a.jpg")
    assert (header.size, header.orientation, header.focal_mm) == ((64, 48), 6, 5.0)
    assert header.camera_name == "Canon EOS 5D Mark II"
    write_photo(tmp_path / "b.jpg", camera={TAGS.Make: "ACME", TAGS.Orientation: 77})
    assert read_header(tmp_path / "b.jpg").orientation == 1
    (tmp_path / "c.jpg").write_bytes(b"\xff\xd8 no image")
    assert read_header(tmp_path / "c.jpg") is None
    assert read_header(tmp_path / "none.jpg") is None
    damaged = (tmp_path / "a.jpg").read_bytes().replace(b"Canon", b"\xff\xfe\xfd\xfc\xfb")
    (tmp_path / "d.jpg").write_bytes(damaged[:60] + b"\xff" * 30 + damaged[90:])
    read_header(tmp_path / "d.jpg")


@pytest.mark.parametrize("suffix", [".tif", ".jpg", ".webp", ".png"])
def test_a_size_is_that_of_the_pixels_as_they_are_stored(tmp_path, suffix):
    for orientation in (1, 3, 6, 8):
        path = tmp_path / f"{orientation}{suffix}"
        write_photo(path, (64, 48), {TAGS.Orientation: orientation}, FocalLengthIn35mmFilm=28)
        header = read_header(path)
        assert (header.size, header.orientation) == ((64, 48), orientation)
        assert suffix == ".tif" or header.focal_35mm == 28  # Pillow writes no more into a TIFF


KNOWN = {"camera_model": "PINHOLE", "intrinsics": [FOCAL, FOCAL, SIZE[0] / 2, SIZE[1] / 2]}
NUM_VIEWS = 5


@pytest.mark.slow
def test_intrinsics_help_where_half_of_the_photos_are_rotated(tmp_path):
    """Centres do not depend on the rotation of the pixels, so the reference holds."""
    make_photos(tmp_path, NUM_VIEWS)
    images, output = tmp_path / "images", tmp_path / "out"
    for path, how in zip(
        sorted(images.iterdir())[1::2],
        (cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_90_COUNTERCLOCKWISE),
        strict=True,
    ):
        assert cv2.imwrite(str(path), cv2.rotate(cv2.imread(str(path)), how))
    settings = {"extractor": SiftExtractor(300), "reference": tmp_path / "reference"}
    guessed = reconstruct(images, output, focal_guess=0.6, **settings)
    known = reconstruct(images, output, overwrite=True, **KNOWN, **settings)
    assert known["num_registered"] == guessed["num_registered"] == NUM_VIEWS
    errors = [report["center_error_rel"]["max"] for report in (known, guessed)]
    assert errors[0] < min(errors[1], 0.004)
    assert [camera["num_registered"] for camera in known["cameras"]] == [3, 2]
    assert [camera["source"] for camera in known["cameras"]] == ["intrinsics"] * 2
    assert {camera["refined_focal_px"] for camera in known["cameras"]} == {FOCAL}
    record = json.loads((output / "database.json").read_text())
    assert record["intrinsics"] == KNOWN["intrinsics"]
    assert (record["focal_guess"], record["ignore_exif"]) == (None, False)
    _check_guessed(guessed)


def _check_guessed(report):
    """The report names focal lengths and what became of them."""
    assert len(report["cameras"]) == NUM_VIEWS
    first = report["cameras"][0]
    assert (first["model"], first["source"]) == ("SIMPLE_RADIAL", "guess")
    assert first["size"] == list(SIZE)
    assert first["start_focal_px"] == pytest.approx(0.6 * 360)
    assert first["refined_focal_px"] == pytest.approx(FOCAL, rel=0.1)
    assert (first["num_images"], first["num_registered"]) == (1, 1)
    assert "cameras ended more than 25% from where they started" in format_report(report)
