"""Images of every kind are built here from known values, most of them without Pillow's encoder."""

import logging
import os

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rekd_hloc.geometry import warp_points
from rekd_hloc.image_listing import list_images
from rekd_hloc.images import (
    LUMA,
    ImageReadError,
    read_color,
    read_image,
    read_mask,
    shrink,
)

HEIGHT, WIDTH = 40, 52


@pytest.fixture
def rgb():
    """Smooth enough for JPEG, and different in every channel and direction."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([4 * x + 20, 5 * y + 10, 2 * x + 2 * y + 30], axis=2).astype(np.uint8)


@pytest.fixture
def grey(rgb):
    return (rgb.astype(np.float64) @ np.array(LUMA) / 255).astype(np.float32)


def assert_grey(path, expected, atol):
    found = read_image(path)
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, atol=atol)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "ppm", "webp"])
def test_colour_becomes_luma(suffix, rgb, grey, tmp_path):
    Image.fromarray(rgb).save(tmp_path / f"a.{suffix}", lossless=True)
    assert_grey(tmp_path / f"a.{suffix}", grey, 1e-6)
    np.testing.assert_array_equal(read_color(tmp_path / f"a.{suffix}"), rgb)


def test_grey_agrees_with_opencv(rgb, tmp_path):
    path = tmp_path / "a.png"
    assert cv2.imwrite(str(path), rgb[..., ::-1])
    expected = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)  # rounded to whole numbers
    assert_grey(path, expected / 255, 0.51 / 255)


def test_jpeg(rgb, grey, tmp_path):
    Image.fromarray(rgb).save(tmp_path / "a.JPG", quality=98, subsampling=0)
    assert_grey(tmp_path / "a.JPG", grey, 0.012)


def test_grey_file_gives_equal_colours(tmp_path):
    values = np.arange(20, dtype=np.uint8).reshape(4, 5)
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_color(tmp_path / "a.png"), np.dstack([values] * 3))
    assert_grey(tmp_path / "a.png", values / np.float32(255), 1e-7)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_of_grey_are_kept(suffix, tmp_path):
    values = (np.arange(30).reshape(5, 6) * 7 + 1).astype(np.uint16)
    values[0, 0] = 65535
    assert cv2.imwrite(str(tmp_path / f"a.{suffix}"), values)
    assert_grey(tmp_path / f"a.{suffix}", values / 65535, 1e-7)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bits_of_colour_are_kept(suffix, channels, tmp_path):
    """12 bits in 16: eight of the sixteen would leave 16 levels of it."""
    bgr = np.random.default_rng(0).integers(0, 4096, (9, 7, channels)).astype(np.uint16)
    assert cv2.imwrite(str(tmp_path / f"a.{suffix}"), bgr)
    expected = bgr[..., :3][..., ::-1] @ np.array(LUMA) / 4095
    assert_grey(tmp_path / f"a.{suffix}", expected, 1e-6)
    rounded = np.rint(bgr[..., :3][..., ::-1] * np.float32(255 / 4095))
    np.testing.assert_array_equal(read_color(tmp_path / f"a.{suffix}"), rounded)


def test_32_bits_of_grey_do_not_saturate(tmp_path):
    values = np.array([[0, 70_000, 140_000]], dtype=np.int32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert_grey(tmp_path / "a.tif", values / (2**18 - 1), 1e-6)


@pytest.mark.parametrize(("white", "top"), [(1.0, 0.75), (255.0, 191.25)])
def test_floats_may_be_of_one_or_of_255_and_nan_is_the_median(white, top, tmp_path):
    values = np.array([[0.0, top, np.nan], [np.inf, white, top]], dtype=np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert_grey(tmp_path / "a.tif", np.array([[0, 0.75, 0.75], [0.75, 1, 0.75]]), 1e-6)


def test_colour_tiff_of_floats(tmp_path):
    """Pillow knows no such file."""
    bgr = np.random.default_rng(0).random((5, 6, 3)).astype(np.float32)
    assert cv2.imwrite(str(tmp_path / "a.tif"), bgr)
    assert_grey(tmp_path / "a.tif", bgr[..., ::-1] @ np.array(LUMA, np.float32), 1e-5)


def test_alpha_is_dropped_not_laid_over_a_colour(rgb, grey, tmp_path):
    alpha = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    alpha[:, ::2] = 200
    Image.fromarray(np.concatenate([rgb, alpha], axis=2)).save(tmp_path / "a.png")
    assert_grey(tmp_path / "a.png", grey, 1e-6)
    la = Image.merge("LA", [Image.fromarray(rgb[..., 0]), Image.fromarray(alpha[..., 0])])
    la.save(tmp_path / "la.png")
    assert_grey(tmp_path / "la.png", rgb[..., 0] / np.float32(255), 1e-7)


@pytest.mark.parametrize("transparency", [None, 3])
def test_palette(transparency, tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    index = np.array([[0, 1], [2, 3]], np.uint8)
    image = Image.fromarray(index)
    image.putpalette([value for colour in colours for value in colour])
    options = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "a.png", **options)
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.mode == "P"
    assert_grey(tmp_path / "a.png", np.array([[LUMA[0], LUMA[1]], [LUMA[2], 1.0]]), 1e-6)


def test_black_and_white(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    assert_grey(tmp_path / "a.png", np.array([[1.0, 0.0]]), 0)


def test_ink_becomes_light(tmp_path):
    """JPEG of 4 inks: no ink is white, all of cyan takes red away, black ink is black."""
    inks = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255)]
    blocks = np.repeat(np.array(inks, np.uint8)[None], 16, axis=0).repeat(16, axis=1)
    Image.frombytes("CMYK", blocks.shape[1::-1], blocks.tobytes()).save(
        tmp_path / "a.jpg", quality=98
    )
    found = read_color(tmp_path / "a.jpg")[8, 8::16]
    expected = [(255, 255, 255), (0, 255, 255), (255, 0, 255), (255, 255, 0), (0, 0, 0)]
    assert np.abs(found.astype(int) - expected).max() <= 6


def test_exif_orientation_is_ignored_unless_asked_for(rgb, grey, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: upright after a quarter turn clockwise
    Image.fromarray(rgb).save(tmp_path / "a.jpg", exif=exif, quality=98, subsampling=0)
    assert_grey(tmp_path / "a.jpg", grey, 0.012)
    upright = read_image(tmp_path / "a.jpg", apply_exif=True)
    np.testing.assert_allclose(upright, np.rot90(grey, -1), atol=0.012)
    assert read_color(tmp_path / "a.jpg", apply_exif=True).shape == (WIDTH, HEIGHT, 3)


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3)])
def test_odd_sizes(size, tmp_path):
    values = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert_grey(tmp_path / "a.png", values / np.float32(255), 1e-7)


def test_all_black(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").count_nonzero() == 0


def test_50_megapixels(tmp_path):
    Image.new("L", (10_000, 5_000), 51).save(tmp_path / "a.png", compress_level=1)
    found = read_image(tmp_path / "a.png")
    assert found.shape == (5_000, 10_000)
    assert found[4_999, 9_999] == pytest.approx(0.2)


def test_a_header_that_claims_a_huge_image_is_refused(tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"P6 900000 900000 255\n" + bytes(100))
    with pytest.raises(ImageReadError, match=r"a\.ppm: claims more than 178 megapixels"):
        read_image(tmp_path / "a.ppm")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no image file .*a\.png"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "the file is empty"), (b"hello\n" * 99, "not an image")]
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_not_an_image(suffix, content, reason, tmp_path):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    for read in (read_image, read_color, read_mask):
        with pytest.raises(ImageReadError, match=rf"a\.{suffix}: {reason}"):
            read(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp", "jp2"])
def test_a_truncated_file_is_refused_wherever_it_ends(suffix, capfd, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    for part in (0.001, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        path.write_bytes(whole[: int(len(whole) * part) + 1])
        with pytest.raises(ImageReadError, match="cannot read"):
            read_image(path)
    assert "TIFF" not in capfd.readouterr().err


def test_a_truncated_tiff_of_16_bits_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 65536, (64, 64, 3)).astype(np.uint16)
    path = tmp_path / "a.tif"
    assert cv2.imwrite(str(path), noise, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    path.write_bytes(path.read_bytes()[:-9000])
    with pytest.raises(ImageReadError, match=r"a\.tif"):
        read_image(path)


@given(
    suffix=st.sampled_from(["jpg", "png", "tif", "gif", "webp"]),
    changes=st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), min_size=1, max_size=5),
)
def test_a_damaged_file_gives_an_image_or_the_one_error(suffix, changes, tmp_path_factory):
    noise = np.random.default_rng(1).integers(0, 256, (12, 13, 3)).astype(np.uint8)
    path = tmp_path_factory.mktemp("damaged") / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    path.write_bytes(content)
    try:
        found = read_image(path)
    except ImageReadError:
        return
    assert torch.isfinite(found).all()
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


def test_a_mask_is_false_where_the_file_is_zero(tmp_path):
    values = np.array([[0, 1, 255], [0, 0, 7]], np.uint8)
    Image.fromarray(values).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "grey.png"), values > 0)
    colour = np.zeros((2, 3, 3), np.uint8)
    colour[0, 1, 2] = 1  # blue alone counts too
    Image.fromarray(colour).save(tmp_path / "colour.png")
    assert read_mask(tmp_path / "colour.png").tolist() == [[False, True, False], [False] * 3]
    Image.fromarray(values > 0).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "bits.png"), values > 0)


def test_names_are_relative_sorted_and_may_be_anything(tmp_path):
    names = ["b.jpg", "a b.PNG", "über/straße.jpeg", "x/same.tif", "y/same.tif", "日本.webp"]
    for name in [*names, "notes.txt", ".hidden.jpg", ".thumbs/a.jpg", "x/._same.tif", "jpg"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
    assert list_images(tmp_path) == sorted(names)


def test_a_name_that_is_no_unicode_is_skipped_with_a_warning(tmp_path, caplog):
    (tmp_path / "a.jpg").touch()
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.jpg")).touch()
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    with caplog.at_level(logging.WARNING):
        assert list_images(tmp_path) == ["a.jpg"]
    assert "not UTF-8; rename" in caplog.text


def test_no_folder_and_no_image(tmp_path):
    with pytest.raises(FileNotFoundError, match="no image folder"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"holds no image; .*\.jpg"):
        list_images(tmp_path)


def blob_centre(image):
    """Centre of the darkness, from the pixel values alone."""
    weight = image.max() - image.astype(np.float64)
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize("max_side", [150, 100, 77, 64])
@pytest.mark.parametrize("size", [(200, 161), (161, 200), (200, 199)])
def test_the_matrix_of_shrink_says_where_a_blob_went(max_side, size):
    height, width = size
    y, x = np.mgrid[0:height, 0:width]
    image = 1 - np.exp(-((x - 70.3) ** 2 + (y - 95.8) ** 2) / (2 * 9.0**2))
    grey = torch.from_numpy(image.astype(np.float32))
    small, small_from_image = shrink(grey, max_side)
    assert max(small.shape) == max_side
    expected = warp_points(small_from_image, torch.tensor([[70.3, 95.8]], dtype=torch.float64))
    np.testing.assert_allclose(blob_centre(small.numpy()), expected[0].numpy(), atol=0.02)


@pytest.mark.parametrize("max_side", [0, 40, 52, 1000])
def test_shrink_leaves_what_is_small_enough(max_side):
    grey = torch.rand(40, 52 if max_side != 40 else 31)
    same, small_from_image = shrink(grey, max_side)
    torch.testing.assert_close(same, grey, rtol=0, atol=0)
    torch.testing.assert_close(small_from_image, torch.eye(3, dtype=torch.float64))


def test_shrink_averages_areas():
    checks = torch.from_numpy(np.indices((64, 64)).sum(axis=0) % 2).float()
    small, _ = shrink(checks, 32)
    torch.testing.assert_close(small, torch.full((32, 32), 0.5))


@pytest.mark.parametrize(
    ("size", "small_size"),
    [((1, 1), (1, 1)), ((1, 500), (1, 100)), ((30, 2000), (2, 100)), ((40_000, 2), (100, 1))],
)
def test_shrink_of_odd_sizes_keeps_one_pixel_at_least(size, small_size):
    small, _ = shrink(torch.rand(size), 100)
    assert small.shape == small_size


@given(height=st.integers(1, 90), width=st.integers(1, 90), max_side=st.integers(1, 99))
def test_corners_stay_corners(height, width, max_side):
    small, small_from_image = shrink(torch.zeros(height, width), max_side)
    ends = torch.tensor([[-0.5, -0.5], [width - 0.5, height - 0.5]], dtype=torch.float64)
    small_ends = torch.tensor([[-0.5, -0.5], [small.shape[1] - 0.5, small.shape[0] - 0.5]])
    torch.testing.assert_close(warp_points(small_from_image, ends), small_ends.double())
