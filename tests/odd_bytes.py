"""Bytes of image files that common encoders do not write, made from arrays."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin

from tests.helpers import textured_image

HEIGHT, WIDTH = 48, 64
TIFF_TYPES = {1: "B", 2: "s", 3: "H", 4: "I"}
ORIENTATION_TAG = 0x0112


def scene(height=HEIGHT, width=WIDTH):
    """Grey bytes from 0 to 255 that are no noise, so that every codec shows them."""
    return textured_image(height, width, seed=5)


def color():
    """The scene in three equal channels: its grey is the scene in every codec."""
    return np.repeat(scene()[..., None], 3, axis=2)


def encode(array, kind, **options):
    """By Pillow; the array is an image of a mode that follows from its shape and type."""
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encode_cv(array, suffix, *flags):
    """By OpenCV, which takes colours of 16 bits and of floats."""
    done, data = cv2.imencode(suffix, array, list(flags))
    assert done
    return data.tobytes()


def tiff(values, *, order="<", tile=0, photometric=1, planar=False, orientation=1):
    """An uncompressed TIFF with one strip, or with tiles of that side, in either byte order."""
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else values.shape[2]
    data = values.astype(values.dtype.newbyteorder(order))
    if tile:
        padded = np.pad(data, [(0, -height % tile), (0, -width % tile)])
        rows, columns = padded.shape[0] // tile, padded.shape[1] // tile
        blocks = padded.reshape(rows, tile, columns, tile).swapaxes(1, 2).reshape(-1, tile, tile)
    else:
        blocks = np.moveaxis(data, 2, 0) if planar else data[None]
    pieces = [block.tobytes() for block in blocks]
    starts = np.cumsum([8, *map(len, pieces)]).tolist()
    sizes = [len(piece) for piece in pieces]
    where = {322: (4, [tile]), 323: (4, [tile]), 324: (4, starts[:-1]), 325: (4, sizes)}
    if not tile:
        where = {273: (4, starts[:-1]), 278: (4, [height]), 279: (4, sizes)}
    kinds = {"u": 1, "i": 2, "f": 3}
    tags = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [8 * values.dtype.itemsize] * channels),
        259: (3, [1]),
        262: (3, [photometric]),
        274: (3, [orientation]),
        277: (3, [channels]),
        284: (3, [2 if planar else 1]),
        339: (3, [kinds[values.dtype.kind]] * channels),
        **where,
    }
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, starts[-1])
    return head + b"".join(pieces) + _directory(tags, order, starts[-1])


def _directory(tags, order, start):
    """The list of tags, and behind it the values that do not fit into four bytes."""
    entries, extra = b"", b""
    behind = start + 2 + 12 * len(tags) + 4
    for tag, (kind, items) in sorted(tags.items()):
        value = struct.pack(f"{order}{len(items)}{TIFF_TYPES[kind]}", *items)
        if len(value) > 4:
            place = struct.pack(f"{order}I", behind + len(extra))
            extra += value + b"\0" * (len(value) % 2)
            value = place
        entries += struct.pack(f"{order}HHI", tag, kind, len(items)) + value.ljust(4, b"\0")
    return struct.pack(f"{order}H", len(tags)) + entries + b"\0" * 4 + extra


def png_header(width, height, depth=8, kind=2):
    """A PNG that claims a size and holds a few bytes."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" * 64)),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def bmp(*, height=HEIGHT, claimed=None, compression=0, body=None):
    """A BMP of 8 bits with a grey palette; a negative height means rows from the top down."""
    rows = scene() if height < 0 else scene()[::-1]
    body = rows.tobytes() if body is None else body
    palette = b"".join(bytes((level, level, level, 0)) for level in range(256))
    width, high = claimed or (WIDTH, height)
    info = struct.pack("<IiiHHIIiiII", 40, width, high, 1, 8, compression, len(body), 0, 0, 256, 0)
    start = 14 + len(info) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start) + info + palette + body


def run_lengths():
    """The scene in BMP's run-length code, each pixel a run of one."""
    rows = (b"".join(bytes((1, level)) for level in row) + b"\0\0" for row in scene()[::-1])
    return b"".join(rows) + b"\0\1"


def netpbm(kind, values, white):
    """PGM and PPM with any white; two bytes a value, the high one first, above 255."""
    height, width = values.shape[:2]
    head = f"{kind}\n{width} {height}\n{white}\n".encode()
    if kind in ("P2", "P3"):
        return head + " ".join(str(value) for value in values.ravel()).encode() + b"\n"
    return head + values.astype(">u2" if white > 255 else "u1").tobytes()


def oriented(kind, orientation, **options):
    """The scene in a file whose EXIF asks for a turn or a mirror image."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    return encode(scene(), kind, exif=exif, **options)


def pages(kind, **options):
    """The scene and two other frames behind it."""
    others = [Image.fromarray(scene()[::-1, ::step].copy()).resize((64, 48)) for step in (1, -1)]
    return encode(scene(), kind, save_all=True, append_images=others, **options)


def patched(data, old, new):
    """The first occurrence replaced; lengths need not agree."""
    assert old in data
    return data.replace(old, new, 1)


def without_end(data, share):
    """That share of a file."""
    return data[: int(len(data) * share)]


def tiff_with_tags(compression=None, **tags):
    """A TIFF of Pillow's with tags by number, ``t50706=...``."""
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        directory[int(name[1:])] = value
    return encode(scene(), "TIFF", tiffinfo=directory, compression=compression)


def heif_header(brand):
    """The first box of HEIC, AVIF and CR3, and nothing that could be decoded."""
    return struct.pack(">I", 24) + b"ftyp" + brand + b"\0\0\0\0mif1" + brand + b"\0" * 200
