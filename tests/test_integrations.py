"""The adapters in examples/ inside imcui and vismatch, where these are installed.

They bring much with them, so they are no part of the development environment.
"""

import importlib
import math
import shutil
import sys

import cv2
import numpy as np
import pytest
import torch

from rekd_hloc.demo import DEMO_IMAGES
from tests.helpers import ROOT

pytestmark = pytest.mark.slow
MAX_LINES = 60


@pytest.mark.parametrize("name", ["imcui_rekd.py", "vismatch_rekd.py"])
def test_an_adapter_is_short(name):
    text = (ROOT / "examples" / name).read_text()
    assert len(text.splitlines()) <= MAX_LINES
    compile(text, name, "exec")


def small(name):
    image = cv2.imread(str(DEMO_IMAGES / name))[:, :, ::-1]
    return np.ascontiguousarray(
        cv2.resize(image, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    )


def place(package, name, folder):
    """Copy an adapter where a user would, in front of what the package has by that name."""
    shutil.copy(ROOT / "examples" / name, folder / "rekd.py")
    package.__path__.insert(0, str(folder))


@pytest.mark.filterwarnings("default")
def test_imcui_extracts_and_matches_with_rekd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # imcui writes a log where it is imported
    extract = pytest.importorskip("imcui.hloc.extract_features", exc_type=ImportError)
    match = pytest.importorskip("imcui.hloc.match_features", exc_type=ImportError)
    from imcui.hloc import extractors, matchers
    from imcui.hloc.utils.base_model import dynamic_load

    place(extractors, "imcui_rekd.py", tmp_path)
    network = dynamic_load(extractors, "rekd")({"name": "rekd", "max_keypoints": 500}).eval()
    conf = {"grayscale": True, "resize_max": 1600}
    found = [extract.extract(network, small(f"view_0{i}.jpg"), conf) for i in (3, 6)]
    count = found[0]["keypoints"].shape[1]
    assert 100 < count <= 500
    assert found[0]["descriptors"].shape[1] == 128
    nearest = dynamic_load(matchers, "nearest_neighbor")({"do_mutual_check": True}).eval()
    matched = match.match_images(nearest, *found)
    assert len(matched["mkeypoints0"]) > 60
    assert float(found[0]["oris"].max()) > math.pi  # degrees


@pytest.mark.filterwarnings("default")
def test_vismatch_matches_with_rekd(tmp_path):
    models = pytest.importorskip("vismatch.im_models", exc_type=ImportError)
    place(models, "vismatch_rekd.py", tmp_path)
    sys.modules.pop("vismatch.im_models.rekd", None)
    matcher = importlib.import_module("vismatch.im_models.rekd").RekdMatcher(max_num_keypoints=500)
    images = [torch.from_numpy(small(f"view_0{i}.jpg")).permute(2, 0, 1) / 255 for i in (3, 6)]
    found = matcher(*images)
    assert len(found["matched_kpts0"]) > 40
    assert found["num_inliers"] >= 12  # of one homography, in a scene with depth
    assert found["all_desc0"].shape[1] == 128
