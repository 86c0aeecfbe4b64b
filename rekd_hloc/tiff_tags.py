"""The few tags of a TIFF file that its readers do not tell, and the one that they must not obey.

Pillow and OpenCV apply the orientation of a TIFF, at times to its size alone, and of no other kind
of file. With that tag set to 1 both give the pixel grid of the file, as COLMAP does.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

BITS, ORIENTATION, EXTRA_SAMPLES, SAMPLE_FORMAT, NO_DATA = 258, 274, 338, 339, 42113
"""Numbers of tags; the last is GDAL's, a text: the value of pixels that have none."""
UNSIGNED, SIGNED = 1, 2
"""Of ``SAMPLE_FORMAT``; 3 are floats."""
ALPHAS = (1, 2)
"""Of ``EXTRA_SAMPLES``: premultiplied or not; 0 is any other channel, such as infrared."""
MOST_TAGS, MOST_BYTES = 4096, 256
"""Read of a directory, and of a tag: a damaged file can claim any number."""
_CODES = {1: "B", 2: "c", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q"}


@dataclass(frozen=True)
class TiffTags:
    """Tell what the first directory of a TIFF file says; what it lacks has TIFF's default.

    Attributes:
        bits: of each value, the largest of all channels.
        sample_format: ``UNSIGNED``, ``SIGNED``, or 3 for floats.
        extra_samples: what the first channel beyond the colours is; None if nothing is said of it.
        no_data: the value of pixels that have none.
        orientation: as in EXIF, 1 to 8.
        orientation_place: where in the file the orientation is; None without one.
        orientation_form: the number's byte order and kind, as :mod:`struct` writes them.
    """

    bits: int
    sample_format: int
    extra_samples: int | None
    no_data: float | None
    orientation: int
    orientation_place: int | None
    orientation_form: str


class _Tag(NamedTuple):
    place: int
    form: str
    values: tuple[int, ...]
    text: bytes


def read_tiff_tags(path: Path) -> TiffTags | None:
    """Return the tags of a file, None if it is no TIFF or a damaged one.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 16:
            return None
        magic, start, long_start = struct.unpack(f"{order}2xHI8x", head) + struct.unpack(
            f"{order}8xQ", head
        )
        if magic not in (42, 43):
            return None
        try:
            tags = _read_directory(file, order, long_start if magic == 43 else start, magic == 43)
        except (struct.error, ValueError, OverflowError, OSError):  # seek refuses huge places
            return None
    orientation = tags.get(ORIENTATION)
    value = orientation.values[0] if orientation and orientation.values else 1
    return TiffTags(
        bits=max(_values(tags, BITS), default=1),
        sample_format=max(_values(tags, SAMPLE_FORMAT), default=UNSIGNED),
        extra_samples=next(iter(_values(tags, EXTRA_SAMPLES)), None),
        no_data=_number(tags[NO_DATA].text) if NO_DATA in tags else None,
        orientation=value if 1 <= value <= 8 else 1,
        orientation_place=orientation.place if orientation else None,
        orientation_form=orientation.form if orientation else "",
    )


def read_unrotated(path: Path, tags: TiffTags) -> bytes:
    """Return the bytes of a TIFF file with 1 for its orientation.

    Raises:
        OSError: the file cannot be read.
    """
    content = bytearray(path.read_bytes())
    place = tags.orientation_place
    if place is not None and place + struct.calcsize(tags.orientation_form) <= len(content):
        struct.pack_into(tags.orientation_form, content, place, 1)
    return bytes(content)


def _read_directory(file: BinaryIO, order: str, start: int, is_big: bool) -> dict[int, _Tag]:
    """Tags that are wanted; BigTIFF has 8 bytes where TIFF has 4 for counts and places."""
    head, entry_code = ("Q", "HHQ8s") if is_big else ("H", "HHI4s")
    entry = struct.Struct(order + entry_code)
    file.seek(start)
    (count,) = struct.unpack(order + head, file.read(struct.calcsize(order + head)))
    first = file.tell()
    tags = {}
    for index in range(min(count, MOST_TAGS)):
        place = first + index * entry.size
        file.seek(place)
        number, kind, num_values, inline = entry.unpack(file.read(entry.size))
        if number not in (BITS, ORIENTATION, EXTRA_SAMPLES, SAMPLE_FORMAT, NO_DATA):
            continue
        if kind not in _CODES:
            continue
        data_place = place + entry.size - len(inline)
        form = order + _CODES[kind]
        size = struct.calcsize(form)
        wanted = min(num_values, MOST_BYTES // size) * size
        if num_values * size > len(inline):
            (data_place,) = struct.unpack(order + ("Q" if is_big else "I"), inline)
            file.seek(data_place)
            inline = file.read(wanted)
        data = inline[:wanted]
        values = () if kind == 2 else struct.unpack(f"{order}{wanted // size}{_CODES[kind]}", data)
        tags[number] = _Tag(data_place, form, values, data)
    return tags


def _values(tags: dict[int, _Tag], number: int) -> tuple[int, ...]:
    return tags[number].values if number in tags else ()


def _number(text: bytes) -> float | None:
    try:
        return float(text.split(b"\0")[0].decode("ascii"))
    except ValueError:
        return None
