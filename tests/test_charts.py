import subprocess
import sys
import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest

from rekd_hloc.viz import charts


def decode(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def make_figures():
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2, 5)
    centres = np.stack([np.sin(angle), -np.cos(angle), np.zeros(5)], 1)
    counts = rng.integers(0, 300, (5, 5))
    names = [f"view {k}.png" for k in range(5)]
    return {
        "bars": charts.draw_bars({"extract": 3.0, "match": 1.0}, x_label="seconds"),
        "matrix": charts.draw_pair_matrix(names, counts + counts.T),
        "map": charts.draw_camera_map(rng.normal(size=(50, 3)), centres, -centres, names, centres),
    }


@pytest.mark.parametrize("kind", ["bars", "matrix", "map"])
def test_charts_are_pictures_with_something_on_them(kind):
    picture = decode(charts.encode_figure(make_figures()[kind]))
    assert min(picture.shape[:2]) > 80
    assert picture.std() > 10
    assert (picture[[0, -1]] == 255).all()  # nothing is cut off
    assert (picture[:, [0, -1]] == 255).all()


def test_vector_files_are_the_same_at_every_call():
    first = charts.encode_figure(make_figures()["bars"], ".svg")
    assert first == charts.encode_figure(make_figures()["bars"], ".svg")
    assert ET.fromstring(first).tag.endswith("svg")  # noqa: S314  (our own file)
    assert b"extract" in first or b"<use" in first


def test_empty_input_gives_empty_charts():
    none = np.zeros((0, 3))
    for figure in (
        charts.draw_bars({}, x_label="seconds"),
        charts.draw_pair_matrix(["a", "b"], np.zeros((2, 2), np.int64)),
        charts.draw_camera_map(none, np.zeros((1, 3)), np.array([[0.0, 0.0, 1.0]]), ["a"]),
    ):
        assert decode(charts.encode_figure(figure)).size > 0


def test_camera_map_shows_the_plane_of_the_cameras():
    angle = np.linspace(0, 3, 9)
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    flat = np.stack([np.sin(angle), np.cos(angle), 0.01 * np.cos(5 * angle)], 1)
    plane, origin = charts._choose_plane(flat @ rotation.T, -flat @ rotation.T)
    np.testing.assert_allclose(plane @ plane.T, np.eye(2), atol=1e-9)
    assert abs(plane @ rotation[:, 2]).max() < 0.05
    look = (-flat @ rotation.T).sum(0) @ plane.T
    assert look[1] > abs(look[0])  # seen from behind the cameras, looking up the page
    np.testing.assert_allclose(origin, (flat @ rotation.T).mean(0))


def test_camera_names_lie_inside_the_axes():
    figure = make_figures()["map"]
    charts.encode_figure(figure)
    axes = figure.axes[0]
    inside = axes.get_window_extent()
    for text in axes.texts:
        extent = text.get_window_extent()
        assert inside.y0 <= extent.y0 < extent.y1 <= inside.y1


def test_pyplot_stays_unused():
    code = "import sys, rekd_hloc.viz.charts; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603
