"""Curves of evaluations as pictures."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from evaluation.reporting.curves import COLORS, Plot, assign_colors, draw, draw_panels


def make_plot(name: str, *labels: str) -> Plot:
    curves = {label: [float(k * number) for k in range(4)] for number, label in enumerate(labels)}
    return Plot(name, f"protocol {name}", "angle, degrees", "%", [0, 90, 180, 270], curves)


def test_a_method_has_one_colour_in_all_plots_with_and_without_filter():
    colors = assign_colors(
        [make_plot("a", "rekd", "rekd *", "sift"), make_plot("b", "orb", "sift")]
    )
    assert list(colors) == ["rekd", "sift", "orb"]
    assert len(set(colors.values())) == 3
    many = assign_colors([make_plot("a", *(f"m{number}" for number in range(40)))])
    assert set(many.values()) == set(COLORS)


def test_curves_become_a_png_and_an_svg_and_the_same_ones_each_time(tmp_path):
    plot = make_plot("a", "rekd", "rekd *", "sift")
    path = draw(plot, tmp_path / "one", assign_colors([plot]))
    assert path == tmp_path / "one" / "a.svg"
    text = path.read_text()
    assert ET.fromstring(text).tag.endswith("svg")
    with Image.open(path.with_suffix(".png")) as picture:
        assert picture.size[0] > 600
    again = draw(plot, tmp_path / "two", assign_colors([plot]))
    assert again.with_suffix(".png").read_bytes() == path.with_suffix(".png").read_bytes()
    assert not list(tmp_path.rglob("*.tmp"))


def test_panels_of_many_methods_stay_small(tmp_path):
    labels = [name for k in range(16) for name in (f"method-{k}", f"method-{k} *")]
    draw_panels([make_plot(str(k), *labels) for k in range(4)], tmp_path / "new" / "all.png")
    path = tmp_path / "new" / "all.png"
    assert path.stat().st_size < 250_000
    with Image.open(path) as picture:
        width, height = picture.size
    assert 1200 < width < 1600
    assert height < 1200


def test_no_curve_is_an_empty_picture(tmp_path):
    plot = make_plot("none")
    assert draw(plot, tmp_path, {}).is_file()
    draw_panels([], tmp_path / "panels.png")
    assert (tmp_path / "panels.png").is_file()


BUNDLES = [
    [
        [69.1, 82.9, 84.1, 84.3],
        [69.1, 82.9, 84.1, 84.1],
        [69.1, 83.5, 84.4, 84.3],
        [69.1, 82.9, 84.1, 83.8],
        [69.1, 82.8, 84.2, 84.8],
        [69.1, 83.5, 84.9, 83.7],
    ],
    [
        [57.9, 78.5, 79.5, 79.4],
        [57.9, 78.6, 79.4, 79.3],
        [57.9, 79.2, 79.6, 80.1],
        [57.9, 78.5, 79.3, 79.1],
        [57.9, 77.4, 80.0, 80.6],
        [57.9, 79.2, 80.1, 78.9],
    ],
    [
        [88.4, 81.5, 78.2, 77.3],
        [88.4, 81.5, 78.0, 76.5],
        [88.4, 81.7, 82.5, 83.0],
        [88.4, 87.7, 86.8, 87.2],
        [88.4, 91.0, 92.5, 92.2],
        [88.4, 89.9, 92.8, 93.2],
    ],
]
"""Curves of a training's variants, most of them on top of each other, in three panels."""


@pytest.mark.slow
def test_panels_keep_the_colours_of_lines_that_are_mostly_hidden(tmp_path):
    plots = [
        Plot(
            str(k), "title", "step", "%", [0, 50, 100, 150], dict(zip("abcdef", rows, strict=True))
        )
        for k, rows in enumerate(BUNDLES)
    ]
    draw_panels(plots, tmp_path / "all.png")
    with Image.open(tmp_path / "all.png") as picture:
        pixels = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0).astype(int)
    for color in COLORS[:6]:
        wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert np.abs(pixels - wanted).max(axis=1).min() <= 1, f"{color} is drawn as another colour"
