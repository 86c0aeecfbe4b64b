import cv2
import numpy as np
import pytest

from rekd_hloc.images import encode_image, read_color, write_image


def test_colours_and_values_come_back(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    write_image(tmp_path / "new folder" / "ü.png", pixels)
    np.testing.assert_array_equal(read_color(tmp_path / "new folder" / "ü.png"), pixels)
    write_image(tmp_path / "grey.png", pixels[..., 0])
    np.testing.assert_array_equal(read_color(tmp_path / "grey.png")[..., 2], pixels[..., 0])
    assert not list(tmp_path.rglob("*.tmp"))


def test_jpeg_is_smaller_and_still_red_where_red():
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[..., 0] = 200
    data = encode_image(pixels, ".jpg")
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(decoded[32, 32].astype(int) - (0, 0, 200)).max() < 5


def test_what_cannot_be_written_is_named(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="xyz"):
        encode_image(pixels, ".xyz")
    with pytest.raises(ValueError, match="0, 4"):
        encode_image(pixels[:0], ".png")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*a\.png"):
        write_image(tmp_path / "file" / "a.png", pixels)
