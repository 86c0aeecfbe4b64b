import csv
import subprocess
import sys
import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from evaluation.reporting import benchmark_charts
from rekd_hloc.viz import charts


def make_figure():
    figure = Figure(figsize=(3, 2))
    figure.add_subplot().barh(["extract", "match"], [3.0, 1.0])
    return figure


def test_a_chart_is_a_picture_with_something_on_it():
    picture = cv2.imdecode(np.frombuffer(charts.encode_figure(make_figure()), np.uint8), 1)
    assert min(picture.shape[:2]) > 80
    assert picture.std() > 10
    assert (picture[[0, -1]] == 255).all()  # nothing is cut off
    assert (picture[:, [0, -1]] == 255).all()


def test_vector_files_are_the_same_at_every_call():
    first = charts.encode_figure(make_figure(), ".svg")
    assert first == charts.encode_figure(make_figure(), ".svg")
    assert ET.fromstring(first).tag.endswith("svg")  # noqa: S314  (our own file)
    assert b"extract" in first or b"<use" in first


def test_pyplot_stays_unused():
    code = "import sys, rekd_hloc.viz.charts; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603


def write_poses(path, rows):
    columns = ["protocol", "data", "method", "parameters.num_keypoints", "parameters.rotated",
               "parameters.filter", "mAA(10)"]  # fmt: skip
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def pose_rows(**changed):
    row = {"protocol": "imc2021-stereo", "data": benchmark_charts.DATA, "keypoints": 2048} | changed
    return [
        [row["protocol"], row["data"], name, row["keypoints"], rotated,
         benchmark_charts.FILTERS.get(name, "none"), value]
        for name in benchmark_charts.LABELS for rotated, value in (("", 0.5), ("0", 0.25))
    ]  # fmt: skip


def test_the_chart_of_the_readme_takes_the_rows_of_its_protocol(tmp_path):
    path = tmp_path / "imc.csv"
    other = pose_rows(data="phototourism/reichstag, 25 images") + pose_rows(keypoints=8000)
    other = [[*row[:-1], 0.9] for row in other]
    filtered = [*pose_rows()[0][:5], "network", 0.9]
    of_refined_matches = [*pose_rows()[0][:-1], ""]
    write_poses(path, [*pose_rows(), *other, filtered, of_refined_matches])
    values = benchmark_charts.read_stereo(path)
    assert values == dict.fromkeys(benchmark_charts.LABELS, {False: 0.5, True: 0.25})
    out = tmp_path / "chart.png"
    assert benchmark_charts.main(["--results", str(path), "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_method_without_rotated_rows_is_named(tmp_path):
    path = tmp_path / "imc.csv"
    write_poses(path, pose_rows()[:-1])
    with pytest.raises(ValueError, match="lacks upright or rotated values of aliked-n16.lightglue"):
        benchmark_charts.read_stereo(path)
