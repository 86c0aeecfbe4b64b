"""Images that Pillow reads by a plugin or by chance of its build, and that COLMAP does not read."""

import io

import numpy as np
import pytest
from PIL import Image, features

from rekd_hloc import image_decoding, image_kinds
from rekd_hloc.image_kinds import explain_unused, is_image, register_heif
from rekd_hloc.images import ImageReadError, read_color, read_image
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.sfm.image_headers import read_header
from rekd_hloc.sfm.point_colors import color_black_points
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from tests.helpers import textured_image
from tests.sift_extractor import SiftExtractor

needs_heif = pytest.mark.skipif(not register_heif(), reason="pillow-heif is not installed")
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")


def corners(width=64, height=48):
    """Red at the upper left, green at the lower right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2, 0] = 255
    pixels[height // 2 :, width // 2 :, 1] = 255
    return pixels


def encode(pixels, kind, orientation=1):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, quality=95, exif=exif.tobytes())
    return stream.getvalue()


@needs_heif
@pytest.mark.parametrize("name", ["a.heic", "A.HEIC", "a.heif", "a.hif", "from a phone.jpg"])
def test_heic_is_read_whatever_its_name(name, tmp_path):
    (tmp_path / name).write_bytes(encode(corners(), "HEIF"))
    assert is_image(name)
    image = read_image(tmp_path / name).numpy()
    assert image.shape == (48, 64)
    assert image[5, 5] == pytest.approx(0.299, abs=0.03)
    assert image[40, 60] == pytest.approx(0.587, abs=0.03)
    assert image[40, 5] < 0.03


@needs_heif
@pytest.mark.parametrize(("orientation", "red"), [(3, (-5, -5)), (6, (5, -5)), (8, (-5, 5))])
def test_heic_is_read_upright(orientation, red, tmp_path):
    """Its rotation belongs to the grid that the file defines, unlike EXIF's in a JPEG."""
    (tmp_path / "a.heic").write_bytes(encode(corners(), "HEIF", orientation))
    (tmp_path / "a.jpg").write_bytes(encode(corners(), "JPEG", orientation))
    upright = read_color(tmp_path / "a.heic")
    assert upright.shape[:2] == ((48, 64) if orientation == 3 else (64, 48))
    assert upright[red][0] > 200
    np.testing.assert_allclose(upright, read_color(tmp_path / "a.heic", apply_exif=True))
    shown = read_color(tmp_path / "a.jpg", apply_exif=True)
    assert np.abs(upright.astype(int) - shown).mean() < 8


@needs_heif
def test_cameras_know_the_focal_length_in_heic(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0xA405] = 26  # mm on 35 mm film
    stream = io.BytesIO()
    Image.fromarray(corners()).save(stream, "HEIF", exif=exif.tobytes())
    (tmp_path / "a.heic").write_bytes(stream.getvalue())
    for registered in (Image.OPEN, Image.EXTENSION):
        monkeypatch.delitem(registered, "HEIF", raising=False)
    register_heif.cache_clear()  # as if nothing had been read before
    header = read_header(tmp_path / "a.heic")
    assert (header.size, header.orientation) == ((48, 64), 1)
    assert header.focal_px == pytest.approx(26 / np.hypot(36, 24) * 80, rel=1e-3)


@needs_avif
def test_avif_is_read_in_the_grid_of_its_pixels_as_a_jpeg_is(tmp_path):
    (tmp_path / "a.avif").write_bytes(encode(corners(), "AVIF", orientation=6))
    assert read_color(tmp_path / "a.avif")[5, 5, 0] > 200
    assert read_color(tmp_path / "a.avif").shape[:2] == (48, 64)
    assert read_color(tmp_path / "a.avif", apply_exif=True)[5, -5, 0] > 200


@needs_heif
def test_a_folder_of_heic_gives_features(tmp_path):
    for seed, name in enumerate(("a.heic", "b.HEIC")):
        pixels = np.dstack([textured_image(72, 96, seed)] * 3)
        (tmp_path / name).write_bytes(encode(pixels, "HEIF"))
    (tmp_path / "cut.heic").write_bytes((tmp_path / "a.heic").read_bytes()[:600])
    (tmp_path / "text.heic").write_text("no picture")
    summary = extract_images(SiftExtractor(50), tmp_path, tmp_path / "f.h5")
    assert summary.names == ["a.heic", "b.HEIC"]
    assert min(summary.num_keypoints.values()) > 20
    assert sorted(summary.skipped) == ["cut.heic", "text.heic"]
    assert all(reason.startswith("cannot read") for reason in summary.skipped.values())


@pytest.mark.parametrize("brand", ["heic", "mif1", "avif"])
def test_without_a_decoder_the_remedy_is_named_whatever_the_name(brand, tmp_path, monkeypatch):
    for module in (image_kinds, image_decoding):
        monkeypatch.setattr(module, "register_heif", lambda: False)
    monkeypatch.setattr(Image, "open", lambda path: Image.new("L", (0, 0)) and fail(path))
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\0\0\0\x18ftyp" + brand.encode() + bytes(99))
    with pytest.raises(ImageReadError, match=r"photo\.jpg: it is an? (HEIC|AVIF) .*pip install"):
        read_image(path)
    assert "rekd-hloc[heif]" in explain_unused("a.HEIC")


def fail(path):
    raise image_decoding.UnidentifiedImageError(f"cannot identify {path}")


def test_points_get_the_colours_that_colmap_would_give_them(tmp_path):
    options = pycolmap.SyntheticDatasetOptions()
    options.num_frames_per_rig, options.num_points3D = 3, 40
    options.camera_width, options.camera_height = 128, 96
    options.camera_params = [160.0, 64.0, 48.0, 0.0]
    model = pycolmap.synthesize_dataset(options)
    for seed, image in enumerate(model.images.values()):
        planes = [textured_image(96, 128, 3 * seed + i) for i in range(3)]
        pixels = Image.fromarray(np.dstack(planes))
        pixels.save((tmp_path / image.name).with_suffix(".png"))
        pixels.save((tmp_path / image.name).with_suffix(".webp"), lossless=True)
        image.name = f"{image.name.removesuffix('.png')}.png"
    model.extract_colors_for_all_images(str(tmp_path))
    expected = {i: point.color.astype(int) for i, point in model.points3D.items()}
    assert np.std(list(expected.values())) > 10
    for image in model.images.values():
        image.name = image.name.replace(".png", ".webp")
    for point in model.points3D.values():
        point.color = np.zeros(3, np.uint8)
    color_black_points(model, tmp_path / "nowhere")
    assert not any(point.color.any() for point in model.points3D.values())
    color_black_points(model, tmp_path)
    for i, color in expected.items():
        assert np.abs(model.points3D[i].color - color).max() <= 1
