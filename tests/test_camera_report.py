"""What the report and the diagnosis say of cameras, in words."""

from dataclasses import replace

import pytest

from rekd_hloc.sfm.camera_report import (
    CameraSummary,
    describe_focals,
    describe_odd_focals,
)
from rekd_hloc.sfm.diagnosis import diagnose

CAMERA = CameraSummary(
    model="SIMPLE_RADIAL",
    size=(640, 480),
    name="",
    example="a.jpg",
    num_images=12,
    num_registered=0,
    source="default",
    start_focal_px=768.0,
    refined_focal_px=None,
    refused_focal_px=None,
)


def make(**changes):
    return replace(CAMERA, **changes)


@pytest.mark.parametrize(
    ("camera", "words", "not_words"),
    [
        (
            make(),
            ["12 images started at 768 px, a field of view of 45 degrees, the default"]
            + ["--focal-guess", "--intrinsics", "SIMPLE_RADIAL does not fit it", "OPENCV_FISHEYE"],
            ["--ignore-exif"],
        ),
        (
            make(source="exif", start_focal_px=64.0),
            ["64 px, a field of view of 157 degrees, from EXIF", "--ignore-exif, --focal-guess"],
            [],
        ),
        (make(source="guess"), ["768 px", "the guess", "--focal-guess"], ["EXIF", "--ignore"]),
        (
            make(source="intrinsics"),
            ["from the intrinsics", "correct the intrinsics, or leave them out"],
            ["FISHEYE", "--focal-guess"],
        ),
        (make(refused_focal_px=9.0), ["EXIF's focal length was not used", "9 px for a.jpg"], []),
        (
            make(model="OPENCV_FISHEYE", start_focal_px=320.0),
            ["field of view of 115 degrees"],
            ["--camera-model"],
        ),
        (
            make(name="GoPro HERO8 Black"),
            ["names GoPro HERO8 Black", "use --camera-model OPENC"],
            [],
        ),
        (make(name="Insta360 ONE X2"), ["a camera with a fisheye"], ["If the lens"]),
        (make(name="RICOH THETA V", size=(640, 320)), ["fisheye", "cut them into views"], []),
        (make(name="Canon EOS 5D"), ["If the lens is wide"], ["EXIF names"]),
        (make(start_focal_px=None, model="EQUIRECTANGULAR"), ["--focal-guess"], ["started"]),
    ],
)
def test_a_poor_result_names_focal_lengths_and_remedies(camera, words, not_words):
    text = describe_focals([camera])
    for word in words:
        assert word in text
    for word in not_words:
        assert word not in text


def test_focal_lengths_of_several_cameras_are_given_as_ranges():
    text = describe_focals([make(), make(start_focal_px=600.0), make(source="exif")])
    assert "24 images started at 600 to 768 px, a field of view of 45 to 56 degrees" in text
    assert "12 images started at 768 px" in text


@pytest.mark.parametrize("registered", [0, 2, 3, 4])
def test_the_diagnosis_names_cameras_where_half_or_more_are_missing(registered):
    names = list("abcde")
    counts = dict.fromkeys(zip(names, names[1:], strict=False), (300, 140))
    text = diagnose(dict.fromkeys(names, 1000), counts, names[:registered], [CAMERA])
    assert ("--camera-model OPENCV_FISHEYE" in text) == (registered <= 2)
    assert ("768 px" in text) == (registered <= 2)


def test_no_camera_is_blamed_where_there_was_nothing_to_match():
    assert "focal" not in diagnose({"a": 9, "b": 9}, {}, [], [CAMERA])


@pytest.mark.parametrize(
    ("source", "start", "refined", "words"),
    [
        (
            "exif",
            700.0,
            400.0,
            ["1 of 2 cameras", "400 px for a.jpg, 700 px by EXIF", "--ignore-e"],
        ),
        ("exif", 300.0, 400.0, ["more than 25%"]),
        ("guess", 700.0, 400.0, ["by the guess", "another guess"]),
        ("exif", 480.0, 400.0, []),
        ("exif", 700.0, None, []),
        ("default", 700.0, 400.0, []),
    ],
)
def test_a_refined_focal_length_far_from_exif_is_told(source, start, refined, words):
    camera = make(source=source, start_focal_px=start, refined_focal_px=refined)
    text = describe_odd_focals([camera.to_json(), make().to_json()])
    assert bool(text) == bool(words)
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("model", "refined", "is_told"),
    [
        ("SIMPLE_RADIAL", 250.0, True),
        ("OPENCV", 100.0, True),
        ("SIMPLE_RADIAL", 300.0, False),
        ("OPENCV_FISHEYE", 250.0, False),
        ("FOV", 250.0, False),
    ],
)
def test_a_lens_too_wide_for_its_camera_model_is_told(model, refined, is_told):
    camera = make(model=model, refined_focal_px=refined).to_json()
    assert ("--camera-model OPENCV_FISHEYE" in describe_odd_focals([camera])) == is_told
    assert describe_odd_focals([{**camera, "source": "intrinsics"}]) == ""
