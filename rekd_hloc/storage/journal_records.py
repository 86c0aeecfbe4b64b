"""The records of a journal: how they lie in its file, and which of them are sound.

A file that a power cut, a bad disk or a stranger has changed is read as far as its checksums hold:
a record is taken whole or not at all, and those behind a damaged one are found again by their mark.
"""

import json
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from rekd_hloc.json_text import parse_json
from rekd_hloc.storage.names import check_name

MAGIC = b"rekd_hloc journal 1\n"
HEAD = struct.Struct("<4sIQI")
"""Before each record: mark, bytes of its JSON part, bytes of its arrays, checksum of both."""
MARK = b"RCRD"
SEARCH_BYTES = 1 << 20
"""Read at once where the next record is looked for."""
MAX_REREADS = 8
"""How often, on average, a damaged file's bytes are read in the search; crafted ones want more."""


@dataclass(frozen=True)
class Record:
    """Hold an HDF5 group in miniature.

    Attributes:
        group: its path in the file.
        arrays: dataset name to values.
        attrs: dataset name to attributes; those of the group itself are under ``""``.
    """

    group: str
    arrays: dict[str, NDArray[Any]]
    attrs: dict[str, dict[str, str | float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """Say where a sound record begins, and what it holds beside the values of its arrays."""

    start: int
    end: int
    group: str
    arrays: list[tuple[str, np.dtype[Any], tuple[int, ...]]]
    attrs: dict[str, dict[str, str | float]]

    @property
    def attributes(self) -> dict[str, str | float]:
        """Return the attributes of the group itself."""
        return self.attrs.get("", {})


@dataclass
class Scan:
    """Hold what was found in a journal's file.

    Attributes:
        entries: sound records by group, the last of each.
        provenance: what the records were made with; None if that record is damaged or missing.
        end: bytes up to the end of the last sound record.
        num_lost: damaged records with sound ones behind them, at least so many.
        num_cut: damaged records at the end, at least so many; a kill leaves one.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    provenance: dict[str, str] | None = None
    end: int = 0
    num_lost: int = 0
    num_cut: int = 0


def pack(record: Record) -> bytes:
    """Return a record as it lies in the file."""
    arrays = {name: np.ascontiguousarray(array) for name, array in record.arrays.items()}
    described = [[name, array.dtype.str, array.shape] for name, array in arrays.items()]
    header = {"group": record.group, "arrays": described, "attrs": record.attrs}
    text = json.dumps(header).encode()
    payload = b"".join(array.tobytes() for array in arrays.values())
    return HEAD.pack(MARK, len(text), len(payload), _checksum(text, payload)) + text + payload


def read_record(file: BinaryIO, start: int) -> Record | None:
    """Return the record that starts there; None if no sound one does."""
    found = _read_sound(file, start)
    if found is None:
        return None
    entry, payload = found
    arrays: dict[str, NDArray[Any]] = {}
    place = 0
    for name, dtype, shape in entry.arrays:
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(payload, dtype, count, place).reshape(shape).copy()
        place += count * dtype.itemsize
    return Record(entry.group, arrays, entry.attrs)


def scan(file: BinaryIO) -> Scan:
    """Find the sound records of a journal; a file that does not begin as one has none."""
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        return Scan()
    found = Scan(end=len(MAGIC))
    budget = [MAX_REREADS * os.fstat(file.fileno()).st_size + SEARCH_BYTES]
    place: int | None = found.end
    while place is not None:
        sound = _read_sound(file, place, budget)
        if sound is None:
            found.num_cut += place < os.fstat(file.fileno()).st_size
            place = _find_mark(file, place + 1, budget)
            continue
        entry = sound[0]
        found.num_lost, found.num_cut = found.num_lost + found.num_cut, 0
        found.end = place = entry.end
        if entry.group:
            found.entries[entry.group] = entry
        else:
            found.provenance = {str(key): str(value) for key, value in entry.attributes.items()}
    return found


def holds_records(file: BinaryIO) -> bool:
    """Say whether there is a sound record anywhere in a file that does not begin as a journal."""
    budget = [MAX_REREADS * os.fstat(file.fileno()).st_size + SEARCH_BYTES]
    place = _find_mark(file, 0, budget)
    while place is not None and _read_sound(file, place, budget) is None:
        place = _find_mark(file, place + 1, budget)
    return place is not None


def _read_sound(
    file: BinaryIO, start: int, budget: list[int] | None = None
) -> tuple[Entry, bytes] | None:
    """The record that starts here, and its payload, if its checksum and its header are right."""
    file.seek(start)
    head = file.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    mark, text_size, payload_size, checksum = HEAD.unpack(head)
    end = start + HEAD.size + text_size + payload_size
    if mark != MARK or end > os.fstat(file.fileno()).st_size:
        return None
    text, payload = file.read(text_size), file.read(payload_size)
    entry = None
    if _checksum(text, payload) == checksum:
        entry = _read_header(text, payload_size, start, end)
    if entry is None and budget is not None:
        budget[0] -= text_size + payload_size
    return None if entry is None else (entry, payload)


def _read_header(text: bytes, payload_size: int, start: int, end: int) -> Entry | None:
    """What the JSON part says; None unless all of it is of the kinds that :func:`pack` writes."""
    try:
        header = parse_json(text)
        group, attrs = header["group"], header["attrs"]
        arrays = [_array_form(*described) for described in header["arrays"]]
        if group != "":
            check_name(group)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    names = {name for name, _, _ in arrays}
    sizes = [dtype.itemsize * int(np.prod(shape, dtype=object)) for _, dtype, shape in arrays]
    if sum(sizes) != payload_size or len(names) < len(arrays):
        return None
    return Entry(start, end, group, arrays, attrs) if _are_attributes(attrs, names) else None


def _array_form(name: Any, code: Any, shape: Any) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    if not isinstance(code, str) or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError("no array of numbers")
    check_name(name)
    dtype = np.dtype(code)
    if dtype.kind not in "fiub":
        raise ValueError("no array of numbers")
    return name, dtype, tuple(shape)


def _are_attributes(attrs: Any, names: set[str]) -> bool:
    """Say whether these are attributes of a group or of its datasets."""
    return isinstance(attrs, Mapping) and all(
        (name == "" or name in names)
        and isinstance(values, Mapping)
        and all(isinstance(value, str | int | float) for value in values.values())
        for name, values in attrs.items()
    )


def _find_mark(file: BinaryIO, start: int, budget: list[int]) -> int | None:
    """Where the next record may begin; None if there is none, or all was read too often."""
    while budget[0] > 0:
        file.seek(start)
        block = file.read(SEARCH_BYTES)
        budget[0] -= len(block)
        place = block.find(MARK)
        if place >= 0:
            return start + place
        if len(block) < SEARCH_BYTES:
            return None
        start += len(block) - len(MARK) + 1
    return None


def _checksum(text: bytes, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(text))
