"""Camera raw: read where rawpy is installed, in the sensor's grid, and not beside its own JPEG."""

import struct

import numpy as np
import pytest

from rekd_hloc import image_kinds
from rekd_hloc.image_listing import list_folder
from rekd_hloc.images import ImageReadError, read_color
from rekd_hloc.raw_photos import can_read_raw
from rekd_hloc.sfm.image_headers import read_header

needs_rawpy = pytest.mark.skipif(not can_read_raw(), reason="rawpy is not installed")


def dng(pixels, orientation=1):
    """The bytes of a DNG with these values of an RGGB sensor, (height, width) uint16."""
    height, width = pixels.shape
    one, none = (10_000, 10_000), (0, 10_000)
    matrix = [number for row in range(3) for col in range(3) for number in (one, none)[row != col]]
    data = pixels.astype("<u2").tobytes()
    tags = [
        (254, "I", [0]), (256, "I", [width]), (257, "I", [height]), (258, "H", [16]),
        (259, "H", [1]), (262, "H", [32803]), (271, "s", b"Maker\0"), (272, "s", b"Model\0"),
        (273, "offset", None), (274, "H", [orientation]), (277, "H", [1]), (278, "I", [height]),
        (279, "I", [len(data)]), (33421, "H", [2, 2]), (33422, "B", [0, 1, 1, 2]),
        (50706, "B", [1, 4, 0, 0]), (50708, "s", b"Maker Model\0"), (50714, "H", [0]),
        (50717, "H", [65535]), (50721, "SRATIONAL", matrix), (50728, "RATIONAL", [*one] * 3),
        (50778, "H", [21]),
    ]  # fmt: skip
    kinds = {"B": (1, 1), "s": (2, 1), "H": (3, 2), "I": (4, 4), "RATIONAL": (5, 8)}
    kinds |= {"SRATIONAL": (10, 8), "offset": (4, 4)}
    codes = {"RATIONAL": "I", "SRATIONAL": "i"}
    packed = []
    for tag, kind, values in tags:
        if kind == "offset":
            content = b"\0\0\0\0"
        elif kind == "s":
            content = values
        else:
            content = struct.pack(f"<{len(values)}{codes.get(kind, kind)}", *values)
        packed.append((tag, *kinds[kind], content))
    place = 8 + 2 + 12 * len(packed) + 4
    end = place + sum(len(content) + len(content) % 2 for *_, content in packed if len(content) > 4)
    rows, extra = b"", b""
    for tag, code, size, content in packed:
        rows += struct.pack("<HHI", tag, code, len(content) // size)
        if tag == 273:
            rows += struct.pack("<I", end)
        elif len(content) <= 4:
            rows += content.ljust(4, b"\0")
        else:
            rows += struct.pack("<I", place + len(extra))
            extra += content + b"\0" * (len(content) % 2)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(packed))
    return head + rows + b"\0\0\0\0" + extra + data


def corner():
    """Light at the upper left."""
    pixels = np.zeros((96, 128), np.uint16)
    pixels[:48, :64] = 30_000
    return pixels


@needs_rawpy
@pytest.mark.parametrize("orientation", [1, 6])
def test_raw_is_read_in_the_grid_of_the_sensor(orientation, tmp_path):
    path = tmp_path / "a.dng"
    path.write_bytes(dng(corner(), orientation))
    assert list_folder(tmp_path).images == ["a.dng"]
    pixels = read_color(path)
    assert pixels.shape == (96, 128, 3)
    assert pixels[20, 20].min() > 120
    assert pixels[80, 100].max() < 20
    header = read_header(path)
    assert (header.size, header.orientation) == ((128, 96), orientation)
    assert (header.make, header.model) == ("Maker", "Model")
    upright = read_color(path, apply_exif=True)
    assert upright.shape == ((96, 128, 3) if orientation == 1 else (128, 96, 3))


@needs_rawpy
def test_damaged_raw_is_named(tmp_path):
    path = tmp_path / "a.nef"
    path.write_bytes(b"no photo")
    with pytest.raises(
        ImageReadError, match=r"cannot read .*a\.nef: camera raw that LibRaw cannot"
    ):
        read_color(path)
    assert read_header(path) is None


def test_raw_beside_its_jpeg_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(image_kinds, "can_read_raw", lambda: True)
    for name in ("IMG_1.CR2", "IMG_1.JPG", "IMG_2.CR2", "sub/IMG_2.JPG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listing = list_folder(tmp_path)
    assert listing.images == ["IMG_1.JPG", "IMG_2.CR2", "sub/IMG_2.JPG"]
    assert list(listing.unused) == ["IMG_1.CR2"]
    assert "camera raw of IMG_1.JPG, which is used" in listing.unused["IMG_1.CR2"]
