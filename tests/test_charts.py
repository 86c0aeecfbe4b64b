import subprocess
import sys
import xml.etree.ElementTree as ET

import cv2
import numpy as np
from matplotlib.figure import Figure

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
