"""An append-only file of named arrays that stays readable whenever its writer is killed.

An HDF5 file does not: it is inconsistent between the first change and its closing, and on a full
disk HDF5 ends the process. So each result is first appended here, with its length and checksum. A
record cut short by a kill is recognised and dropped; every record before it is intact.
"""

import json
import logging
import os
import struct
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from rekd_hloc.files import explain_os_error

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

MAGIC = b"rekd_hloc journal 1\n"
HEAD = struct.Struct("<4sIQI")
"""Before each record: mark, bytes of its JSON part, bytes of its arrays, checksum of both."""
MARK = b"RCRD"
SYNC_S = 10.0
"""A power cut loses what was appended in the last so many seconds; a kill loses nothing."""


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


class Journal:
    """Keep the records appended so far, by group; a later one replaces an earlier one.

    Attributes:
        provenance: what the records were made with.
    """

    def __init__(self, path: Path) -> None:
        """Read an existing file; one that is no journal, or holds no record, reads as empty."""
        self.path = path
        self.provenance: dict[str, str] = {}
        self._entries: dict[str, _Entry] = {}
        self._file: BinaryIO | None = None
        self._end = 0
        self._synced = time.monotonic()
        with path.open("rb") as file:
            self._scan(file)

    @classmethod
    def resume(cls, path: Path, provenance: Mapping[str, str]) -> Self:
        """Create the file, or go on with one; a record that was cut short is dropped.

        A journal that holds no record takes the new provenance; one that does keeps its own.

        Raises:
            ValueError: the file is something else.
            OSError: it cannot be written, or another process is writing it.
        """
        try:
            file = path.open("a+b", buffering=0)
        except OSError as error:
            raise explain_os_error(error, path) from error
        try:
            _lock(file, path)
            file.seek(0)
            start = file.read(len(MAGIC))
            if not MAGIC.startswith(start):
                raise ValueError(f"{path} is no journal of this program; move it elsewhere")
            self = cls(path)
            self._file = file
            if not self._entries:
                self.provenance = dict(provenance)
                self._end = 0
            dropped = path.stat().st_size - self._end
            file.truncate(self._end)
            if self._end == 0:
                self._write(MAGIC + _pack(Record("", {}, {"": dict(provenance)})))
            elif dropped:
                logger.info("dropped %d bytes of an unfinished record from %s", dropped, path)
        except BaseException:
            file.close()
            raise
        return self

    def __contains__(self, group: str) -> bool:
        return group in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def size(self) -> int:
        """Return bytes of all records."""
        return self._end

    def append(self, record: Record) -> None:
        """Add a record; if that fails, the file is as it was before.

        Raises:
            OSError: the disk is full or gone; the message says what to do.
        """
        entry = _Entry(self._end, set(record.arrays), dict(record.attrs.get("", {})))
        self._write(_pack(record))
        self._entries[record.group] = entry

    def datasets(self, group: str) -> set[str]:
        """Return names of the arrays of a group that is in the journal."""
        return set(self._entries[group].datasets)

    def attributes(self, group: str) -> dict[str, str | float]:
        """Attributes of a group that is in the journal."""
        return dict(self._entries[group].attributes)

    def read(self, group: str) -> Record:
        """Return the last record of a group that is in the journal."""
        with self.path.open("rb") as file:
            file.seek(self._entries[group].start)
            parts = _read_parts(file)
        if parts is None:
            raise ValueError(f"{self.path} was changed by another program; delete it")
        return _unpack(*parts)

    def close(self) -> None:
        """Release the file; it stays on disk."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Close, and delete the file."""
        self.close()
        self.path.unlink(missing_ok=True)
        self._entries = {}

    def _scan(self, file: BinaryIO) -> None:
        if file.read(len(MAGIC)) != MAGIC:
            return
        self._end = len(MAGIC)
        while (parts := _read_parts(file)) is not None:
            header = json.loads(parts[0])
            if header["group"] == "":
                self.provenance = header["attrs"][""]
            else:
                names = {name for name, _, _ in header["arrays"]}
                attrs = header["attrs"].get("", {})
                self._entries[header["group"]] = _Entry(self._end, names, attrs)
            self._end += HEAD.size + len(parts[0]) + len(parts[1])

    def _write(self, data: bytes) -> None:
        assert self._file is not None, "the journal is closed or was opened to read"
        try:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            if time.monotonic() - self._synced > SYNC_S:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except BaseException as error:
            with suppress(OSError):
                self._file.truncate(self._end)
            if isinstance(error, OSError):
                raise explain_os_error(error, self.path, kept_in=self.path) from error
            raise
        self._end += len(data)


class _Entry(NamedTuple):
    start: int
    datasets: set[str]
    attributes: dict[str, str | float]


def _pack(record: Record) -> bytes:
    arrays = {name: np.ascontiguousarray(array) for name, array in record.arrays.items()}
    described = [[name, array.dtype.str, array.shape] for name, array in arrays.items()]
    header = {"group": record.group, "arrays": described, "attrs": record.attrs}
    text = json.dumps(header).encode()
    payload = b"".join(array.tobytes() for array in arrays.values())
    checksum = zlib.crc32(payload, zlib.crc32(text))
    return HEAD.pack(MARK, len(text), len(payload), checksum) + text + payload


def _read_parts(file: BinaryIO) -> tuple[bytes, bytes] | None:
    """JSON and payload of the record that starts here; None if no whole one does."""
    head = file.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    mark, text_size, payload_size, checksum = HEAD.unpack(head)
    left = os.fstat(file.fileno()).st_size - file.tell()
    if mark != MARK or text_size + payload_size > left:
        return None
    text, payload = file.read(text_size), file.read(payload_size)
    return (text, payload) if zlib.crc32(payload, zlib.crc32(text)) == checksum else None


def _unpack(text: bytes, payload: bytes) -> Record:
    header = json.loads(text)
    arrays: dict[str, NDArray[Any]] = {}
    start = 0
    for name, code, shape in header["arrays"]:
        dtype = np.dtype(code)
        count = int(np.prod(shape))
        flat = np.frombuffer(payload, dtype, count, start)
        arrays[name] = flat.reshape(shape).copy()
        start += count * dtype.itemsize
    return Record(header["group"], arrays, header["attrs"])


def _lock(file: BinaryIO, path: Path) -> None:
    """One writer at a time, where the file system can tell."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(error.errno, f"{path} is being written by another process") from error
        except OSError:
            logger.debug("no file locks on the file system of %s", path)
