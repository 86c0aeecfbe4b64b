"""Intrinsics that are carried over to rotated and scaled images, against COLMAP's own models."""

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from rekd_hloc.sfm.image_headers import ImageHeader
from rekd_hloc.sfm.intrinsics import (
    LEFT,
    RIGHT,
    fit_intrinsics,
    parameter_names,
    rotate_parameters,
    scale_parameters,
)
from rekd_hloc.sfm.pycolmap_compat import pycolmap

SIZE = WIDTH, HEIGHT = 640, 480
LIKELY = {"f": 500.0, "fx": 500.0, "fy": 520.0, "cx": 330.0, "cy": 225.0, "omega": 0.8}
LIKELY |= {"alpha": 0.6, "beta": 1.1}
MODELS = [
    name
    for name in pycolmap.CameraModelId.__members__
    if name != "INVALID" and "cx" in parameter_names(name)
]
CENTRED = [500.0, 500.0, 320.0, 240.0]


def make_params(model):
    rng = np.random.default_rng(0)
    return [LIKELY.get(name, rng.normal(scale=0.02)) for name in parameter_names(model)]


def project(model, params, size, rays):
    camera = pycolmap.Camera(
        {"model": model, "width": size[0], "height": size[1], "params": list(params)}
    )
    return np.array([camera.img_from_cam(ray) for ray in rays])


@pytest.fixture
def rays():
    rng = np.random.default_rng(1)
    return np.column_stack([rng.uniform(-0.5, 0.5, (30, 2)), np.ones(30)])


@pytest.mark.parametrize("model", MODELS)
def test_a_rotated_camera_sees_the_rotated_image(model, rays):
    params = make_params(model)
    xy = project(model, params, SIZE, rays)
    for direction, expected in (
        (RIGHT, np.column_stack([HEIGHT - xy[:, 1], xy[:, 0]])),
        (LEFT, np.column_stack([xy[:, 1], WIDTH - xy[:, 0]])),
    ):
        rotated = np.column_stack([-direction * rays[:, 1], direction * rays[:, 0], rays[:, 2]])
        params_rotated = rotate_parameters(model, params, SIZE, direction)
        assert project(model, params_rotated, (HEIGHT, WIDTH), rotated) == pytest.approx(expected)
        back = rotate_parameters(model, params_rotated, (HEIGHT, WIDTH), -direction)
        assert back == pytest.approx(params)


@pytest.mark.parametrize("model", MODELS)
def test_a_scaled_camera_sees_the_scaled_image(model, rays):
    params = make_params(model)
    expected = project(model, params, SIZE, rays) / 2
    assert project(model, scale_parameters(model, params, SIZE, (320, 240)), (320, 240), rays) == (
        pytest.approx(expected)
    )


def fit(params, sizes, orientation=1):
    headers = {f"{i}.jpg": ImageHeader(size, orientation) for i, size in enumerate(sizes)}
    return list(fit_intrinsics("PINHOLE", params, headers).values())


@pytest.mark.parametrize(
    ("size", "change", "params"),
    [
        (SIZE, "", CENTRED),
        ((480, 640), "rotated", [500, 500, 240, 320]),
        ((320, 240), "scaled", [250, 250, 160, 120]),
        ((1000, 750), "scaled", [781.25, 781.25, 500, 375]),
        ((240, 320), "rotated and scaled", [250, 250, 120, 160]),
        ((213, 160), "scaled", [166.406, 166.667, 106.5, 80]),
    ],
)
def test_intrinsics_follow_the_size_of_an_image(size, change, params):
    given, other = fit(CENTRED, [SIZE, size])
    assert (list(given.params), given.change) == (CENTRED, "")
    assert other.params == pytest.approx(params, rel=1e-5)
    assert (other.change, other.is_approximate) == (change, False)


@pytest.mark.parametrize("sizes", [[(500, 500)], [(640, 360)], [(480, 640), (640, 427)]])
def test_images_of_another_shape_are_refused_by_name(sizes):
    with pytest.raises(ValueError, match=rf"for 640x480 px.*'{len(sizes)}\.jpg' {sizes[-1][0]}x"):
        fit(CENTRED, [SIZE, *sizes])


def test_the_size_is_that_whose_centre_is_nearest_and_not_the_most_frequent():
    fitted = fit([500, 500, 238, 322], [SIZE, SIZE, (480, 640)])
    assert [f.change for f in fitted] == ["rotated", "rotated", ""]
    assert fitted[0].is_approximate
    assert fitted[0].params == (500, 500, 320, 240)


@pytest.mark.parametrize("orientation", [6, 8])
def test_exif_says_where_the_principal_point_of_a_rotated_image_is(orientation):
    """Pillow shows the stored photo; one bright pixel is followed through."""
    shown = [500.0, 510.0, 325.5, 231.5]
    stored = np.zeros((WIDTH, HEIGHT), np.uint8)
    (fitted,) = fit(shown, [(HEIGHT, WIDTH)], orientation)
    cx, cy = fitted.params[2:]
    stored[int(cy), int(cx)] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = Image.fromarray(stored)
    image.info["exif"] = exif.tobytes()
    upright = np.asarray(ImageOps.exif_transpose(image))
    assert np.argwhere(upright == 255).tolist() == [[231, 325]]
    assert fitted.params[:2] == (510.0, 500.0)
    assert not fitted.is_approximate


@pytest.mark.parametrize("params", [[500, 500, 330, 240], [500, 500, 320, 250], [90, 80, 300, 240]])
def test_a_centre_that_is_off_is_not_guessed_where_left_or_right_is_unknown(params):
    with pytest.raises(ValueError, match=r"'1\.jpg' is 480x640.*left or right"):
        fit(params, [SIZE, (480, 640)])


def test_tangential_distortion_is_not_guessed_either():
    headers = {"a": ImageHeader(SIZE), "b": ImageHeader((480, 640))}
    params = [*CENTRED, 0.1, 0.01, 0.0, 0.0]
    assert fit_intrinsics("OPENCV", params, headers)["b"].params[4] == 0.1
    with pytest.raises(ValueError, match="left or right"):
        fit_intrinsics("OPENCV", [*CENTRED, 0.1, 0.0, 0.01, 0.0], headers)


def test_intrinsics_of_another_size_are_refused_and_those_of_cropped_images_are_not():
    (fitted,) = fit([500, 500, 200, 150], [SIZE])
    assert fitted.params == (500, 500, 200, 150)
    for params, sizes in (
        ([900, 900, 1000, 750], [SIZE]),
        ([500, 500, 640, 480], [SIZE]),  # of photos twice as large
        ([500, 640, 0, 0], [SIZE]),
        ([500, 500, 100, 75], [SIZE, (99, 99)]),
    ):
        with pytest.raises(ValueError, match=r"principal point .* far from the centre.*640x480"):
            fit(params, sizes)
