"""A large JPEG is decoded no larger than it is needed, and features stay in pixels of the file."""

import cv2
import numpy as np
import pytest
import torch
from helpers import textured_image
from PIL import Image

from rekd_hloc.config import get_preset, load_config
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.images import load_image
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.storage.features import FeatureStore


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A photo of odd sides as JPEG, and the same without loss as PNG."""
    folder = tmp_path_factory.mktemp("photos")
    smooth = cv2.resize(textured_image(250, 330), (1317, 999), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(smooth).save(folder / "a.jpg", quality=98, subsampling=0)
    Image.fromarray(smooth).save(folder / "a.png")
    return folder


@pytest.fixture(scope="module")
def extractor():
    options = ["max_side_px=300", "detector.max_keypoints=200"]
    config = load_config(get_preset("rekd-fast"), None, options)
    return Extractor.from_pretrained("rekd-fast", device="cpu", config=config)


@pytest.mark.parametrize(
    ("enough", "reduction", "size"),
    [(0, 1, (1317, 999)), (700, 1, (1317, 999)), (658, 2, (659, 500)), (300, 4, (330, 250)),
     (10, 8, (165, 125))],
)  # fmt: skip
def test_it_is_reduced_by_whole_factors_and_never_below_what_is_enough(
    folder, enough, reduction, size
):
    loaded = load_image(folder / "a.jpg", enough_px=enough)
    assert (loaded.pixels.shape[1], loaded.pixels.shape[0]) == size
    assert loaded.reduction == reduction
    assert loaded.file_size == (None if reduction == 1 else (1317, 999))


def test_other_kinds_of_files_are_read_whole(folder):
    assert load_image(folder / "a.png", enough_px=100).pixels.shape == (999, 1317)


def test_pixels_lie_where_those_of_the_file_do(folder):
    whole = load_image(folder / "a.jpg").pixels.numpy()
    reduced = load_image(folder / "a.jpg", enough_px=300)
    averaged = whole[: 4 * 249, : 4 * 329].reshape(249, 4, 329, 4).mean((1, 3))
    shifts = {}
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            moved = np.roll(reduced.pixels.numpy()[:249, :329], (dy, dx), (0, 1))
            shifts[dy, dx] = np.abs(moved - averaged)[2:-2, 2:-2].mean()
    assert min(shifts, key=shifts.get) == (0, 0)
    assert shifts[0, 0] < 0.01


def test_features_are_those_of_the_whole_photo(folder, extractor):
    reduced, whole = (extractor(folder / name) for name in ("a.jpg", "a.png"))
    assert reduced.image_size == whole.image_size == (1317, 999)
    distance = torch.cdist(reduced.keypoints.xy, whole.keypoints.xy)
    nearest, index = distance.min(dim=1)
    found = nearest < 3
    assert found.float().mean() > 0.85
    offset = (reduced.keypoints.xy - whole.keypoints.xy[index])[found]
    assert offset.median(dim=0).values.abs().max() < 0.1
    ratio = (reduced.keypoints.scale / whole.keypoints.scale[index])[found]
    assert ratio.median() == pytest.approx(1, abs=0.01)


def test_a_mask_is_applied_in_the_pixels_of_the_file(folder, extractor):
    mask = np.zeros((999, 1317), dtype=bool)
    mask[:, :600] = True
    xy = extractor(folder / "a.jpg", mask).keypoints.xy
    assert len(xy) > 0
    assert xy[:, 0].max() < 600


def test_all_doors_give_the_same(folder, extractor, tmp_path):
    extract_images(extractor, folder, tmp_path / "f.h5", names=["a.jpg"])
    with FeatureStore(tmp_path / "f.h5") as store:
        stored = store.read("a.jpg")
    called = extractor(folder / "a.jpg")
    assert torch.equal(stored.keypoints.xy, called.keypoints.xy)
    assert stored.image_size == called.image_size
    torch.testing.assert_close(stored.descriptors, called.descriptors, atol=1e-3, rtol=0)
