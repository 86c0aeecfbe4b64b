"""Images that are not of 8 bits show what their rendering of 8 bits shows."""

import logging

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from rekd_hloc import Extractor
from rekd_hloc.config import get_preset, with_max_keypoints
from rekd_hloc.images import ImageReadError, load_image, read_color, read_image
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.storage.validate import check_files
from rekd_hloc.value_range import find_value_range
from tests import odd_bytes as made
from tests.helpers import ROOT
from tests.sift_extractor import SiftExtractor

UINT16, INT16, INT32, FLOAT = np.uint16, np.int16, np.int32, np.float32


def ramp(low, high, dtype):
    return np.linspace(low, high, 4000).reshape(40, 100).astype(dtype)


@pytest.mark.parametrize(
    ("values", "black", "white"),
    [
        (ramp(0, 65535, UINT16), 0, 65535),
        (ramp(900, 50_000, UINT16), 0, 65535),
        (ramp(0, 4095, UINT16), 0, 4095),
        (ramp(20, 2500, UINT16), 0, 4095),
        (ramp(0, 1023, UINT16), 0, 1023),
        (ramp(0, 180, UINT16), 0, 255),
        (ramp(0, 1, FLOAT), 0, 1),
        (ramp(0.1, 0.7, FLOAT), 0, 1),
        (ramp(0, 255, FLOAT), 0, 255),
        (ramp(0, 1e6, INT32), 0, 2**20 - 1),
        (ramp(28_000, 31_000, UINT16), 28_003, 30_997),
        (ramp(-1000, 2000, INT16), -996, 1996),
        (ramp(-10, 20, FLOAT), -9.97, 19.97),
        (ramp(0.4, 0.5, FLOAT), 0.4001, 0.4999),
        (ramp(2, 4, UINT16), 2, 3),
        (ramp(7, 7, UINT16), 0, 255),
        (ramp(0, 0, FLOAT), 0, 1),
        (ramp(-5, -5, FLOAT), -5, -4),
    ],
)
def test_the_rule_of_black_and_white(values, black, white):
    limits = find_value_range(values, None)
    assert limits.black == pytest.approx(black, rel=1e-3, abs=1e-3)
    assert limits.white == pytest.approx(white, rel=1e-3, abs=1e-3)


def test_a_few_dead_pixels_do_not_take_the_contrast():
    thermal = ramp(28_000, 31_000, UINT16)
    thermal[3, 5], thermal[9, 9] = 0, 65535
    limits = find_value_range(thermal, None)
    assert 27_990 < limits.black < limits.white < 31_010


def test_what_is_not_usable_does_not_count():
    values = ramp(28_000, 31_000, UINT16)
    usable = np.ones(values.shape, bool)
    usable[:20] = False
    values[:20] = 0
    limits = find_value_range(values, usable)
    assert 29_000 < limits.black < limits.white < 31_000
    assert find_value_range(values, np.zeros(values.shape, bool)).span > 0


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_that_are_full_are_read_as_ever(suffix, tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (40, 50)).astype(UINT16)
    (tmp_path / f"a.{suffix}").write_bytes(made.encode_cv(values, f".{suffix}"))
    expected = values * np.float32(1 / 65535)
    assert np.array_equal(read_image(tmp_path / f"a.{suffix}").numpy(), expected)


@pytest.fixture(scope="module")
def extractor():
    config = with_max_keypoints(get_preset("rekd-fast"), 100)
    return Extractor.from_pretrained("rekd-fast", device="cpu", config=config)


@pytest.fixture(scope="module")
def photo():
    """Grey bytes of a part of a photo, with all levels that a good exposure has."""
    whole = read_color(ROOT / "rekd_hloc" / "demo_data" / "images" / "view_00.jpg")
    grey = cv2.cvtColor(whole[120:248, 200:360], cv2.COLOR_RGB2GRAY)
    return cv2.normalize(grey, None, 0, 255, cv2.NORM_MINMAX)


@pytest.fixture(scope="module")
def of_8_bits(extractor, photo):
    return extractor(photo).keypoints.xy


def share_of(xy, others):
    """Of the points, how many have one of the others within a pixel."""
    return float((torch.cdist(xy, others).min(dim=1).values < 1).float().mean())


DEPTHS = {
    "12 bits": (".png", lambda grey: np.rint(grey * 4095).astype(UINT16)),
    "14 bits": (".tif", lambda grey: np.rint(grey * 16383).astype(UINT16)),
    "kelvin": (".tif", lambda grey: np.rint(28_000 + grey * 3000).astype(UINT16)),
    "signed": (".tif", lambda grey: np.rint(grey * 3000 - 1000).astype(INT16)),
    "255": (".tif", lambda grey: (grey * 255).astype(FLOAT)),
    "double": (".tif", lambda grey: grey * 255),
    "radiance": (".tif", lambda grey: (grey * 0.037).astype(FLOAT)),
}


@pytest.mark.parametrize("name", DEPTHS)
def test_every_depth_has_the_keypoints_of_8_bits(name, extractor, photo, of_8_bits, tmp_path):
    suffix, convert = DEPTHS[name]
    values = convert(photo / 255)
    content = made.tiff(values) if suffix == ".tif" else made.encode_cv(values, suffix)
    (tmp_path / f"a{suffix}").write_bytes(content)
    xy = extractor(tmp_path / f"a{suffix}").keypoints.xy
    assert len(of_8_bits) > 40
    assert len(xy) == pytest.approx(len(of_8_bits), rel=0.05)
    assert share_of(xy, of_8_bits) > 0.9
    assert share_of(of_8_bits, xy) > 0.9


NO_VALUES = {
    "nan": np.nan,
    "infinity": np.inf,
    "minus infinity": -np.inf,
    "largest float": np.finfo(FLOAT).max,
    "smallest float": np.finfo(FLOAT).min,
}


@pytest.mark.parametrize("name", NO_VALUES)
@pytest.mark.parametrize("channels", [1, 3])
def test_no_keypoint_lies_where_there_is_no_number(name, channels, photo, tmp_path):
    values = (np.repeat(photo[..., None], channels, axis=2) / 255 * 40 - 10).astype(FLOAT)
    values[:, :60, -1] = NO_VALUES[name]
    content = made.tiff(values[..., 0]) if channels == 1 else made.encode_cv(values, ".tif")
    (tmp_path / "a.tif").write_bytes(content)
    loaded = load_image(tmp_path / "a.tif")
    assert torch.isfinite(loaded.pixels).all()
    assert loaded.pixels[:, 60:].std() > 0.1
    assert np.array_equal(loaded.usable.all(axis=0), np.arange(photo.shape[1]) >= 60)
    extract_images(SiftExtractor(), tmp_path, tmp_path / "f.h5")
    with FeatureStore(tmp_path / "f.h5") as store:
        xy = store.read("a.tif").keypoints.xy
    assert len(xy) > 10
    assert xy[:, 0].min() >= 60


def test_the_extractor_keeps_whole_patches_away_from_what_is_no_number(extractor, photo, tmp_path):
    values = (photo / 255).astype(FLOAT)
    values[:, :60] = np.nan
    (tmp_path / "a.tif").write_bytes(made.tiff(values))
    keypoints = extractor(tmp_path / "a.tif").keypoints
    assert len(keypoints) > 5
    reach = keypoints.scale * extractor.config.descriptor.patch_size_px / 2
    assert (keypoints.xy[:, 0] - reach >= 59).all()


def test_what_a_map_declares_to_be_no_value_is_none(tmp_path):
    values = ramp(200, 900, INT16)
    values[:, :30] = -9999
    image = Image.fromarray(values.astype(INT32))
    image.save(tmp_path / "a.tif", tiffinfo={42113: "-9999"})
    loaded = load_image(tmp_path / "a.tif")
    assert np.array_equal(loaded.usable.all(axis=0), np.arange(100) >= 30)
    assert loaded.value_range.black >= 0


def test_an_image_without_any_number_is_skipped_by_name(tmp_path):
    (tmp_path / "in").mkdir()
    for name, value in (("nan.tif", np.nan), ("inf.tif", np.inf)):
        (tmp_path / "in" / name).write_bytes(made.tiff(np.full((30, 40), value, FLOAT)))
    (tmp_path / "in" / "good.png").write_bytes(made.encode(made.scene(), "PNG"))
    summary = extract_images(SiftExtractor(), tmp_path / "in", tmp_path / "f.h5")
    assert summary.names == ["good.png"]
    for name in ("nan.tif", "inf.tif"):
        assert f"{name} has no pixel to use" in summary.skipped[name]


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ((made.scene() / 255 * 4e9).astype(np.uint32), 0.0, 4e9 / (2**32 - 1)),
        ((made.scene() / 255 * 2e9 - 1e9).astype(INT32), 0.0, 1.0),
        ((made.scene().astype(int) // 2 - 60).astype(np.int8), 0.0, 1.0),
    ],
)
def test_whole_numbers_of_any_kind(values, low, high, tmp_path):
    (tmp_path / "a.tif").write_bytes(made.tiff(values))
    image = read_image(tmp_path / "a.tif").numpy()
    assert image.min() == pytest.approx(low, abs=1e-4)
    assert image.max() == pytest.approx(high, abs=1e-4)
    assert np.corrcoef(image.ravel(), made.scene().ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    "values",
    [
        (made.scene() / 255).astype(np.float16),
        np.dstack([made.scene()] * 2).astype(UINT16) * 16,
        np.dstack([made.scene()] * 5).astype(UINT16),
    ],
)
def test_a_tiff_of_a_kind_that_is_not_read_says_what_would_do(values, tmp_path):
    (tmp_path / "a.tif").write_bytes(made.tiff(values))
    with pytest.raises(ImageReadError, match=r"a\.tif: .*16 bits is not read; save it as grey or"):
        read_image(tmp_path / "a.tif")


def write_kelvin(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        values = (29_000 + made.scene() / 255 * 1500).astype(UINT16)
        (folder / name).write_bytes(made.tiff(values))


def test_black_and_white_are_recorded_and_told_once(tmp_path, caplog):
    write_kelvin(tmp_path / "in", "a.tif", "b.tif")
    (tmp_path / "in" / "c.png").write_bytes(made.encode(made.scene(), "PNG"))
    out = tmp_path / "f.h5"
    with caplog.at_level(logging.WARNING, "rekd_hloc"):
        summary = extract_images(SiftExtractor(), tmp_path / "in", out)
    assert len(caplog.messages) == 1
    assert "2 images are not of 8 bits" in caplog.text
    assert list(summary.value_ranges) == ["a.tif", "b.tif"]
    black, white = summary.value_ranges["a.tif"]
    assert 28_990 < black < 29_100 < 30_400 < white < 30_510
    caplog.clear()
    write_kelvin(tmp_path / "in", "d.tif")
    again = extract_images(SiftExtractor(), tmp_path / "in", out)
    assert list(again.value_ranges) == ["a.tif", "b.tif", "d.tif"]
    assert again.value_ranges["a.tif"] == (black, white)
    assert "1 image is not of 8 bits" in caplog.text
    with FeatureStore(out) as store:
        assert store.attributes("a.tif")["white"] == white
        assert "white" not in store.attributes("c.png")
        assert len(store.read("a.tif")) > 20
    assert any("3 images not of 8 bits" in issue.message for issue in check_files(out))


def test_nothing_is_said_of_8_bits(tmp_path, caplog):
    (tmp_path / "in").mkdir()
    for name, kind in (("a.png", "PNG"), ("b.jpg", "JPEG"), ("c.tif", "TIFF")):
        (tmp_path / "in" / name).write_bytes(made.encode(made.scene(), kind))
    with caplog.at_level(logging.WARNING, "rekd_hloc"):
        summary = extract_images(SiftExtractor(), tmp_path / "in", tmp_path / "f.h5")
    assert not caplog.messages
    assert summary.value_ranges == {}
