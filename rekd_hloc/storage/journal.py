"""An append-only file of named arrays that stays readable whenever its writer is killed.

An HDF5 file does not: it is inconsistent between the first change and its closing, and on a full
disk HDF5 ends the process. So each result is first appended here, with its length and checksum. A
record cut short by a kill is recognised and dropped; every record before it is intact.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self

from rekd_hloc.files import explain_os_error
from rekd_hloc.locks import is_named, lock_file
from rekd_hloc.storage.journal_records import (
    MAGIC,
    Entry,
    Record,
    holds_records,
    pack,
    read_record,
    scan,
)

__all__ = ["Journal", "Record"]

logger = logging.getLogger(__name__)

SYNC_S = 10.0
"""A power cut loses what was appended in the last so many seconds; a kill loses nothing."""


class Journal:
    """Keep the records appended so far, by group; a later one replaces an earlier one.

    Attributes:
        provenance: what the records were made with.
    """

    def __init__(self, path: Path) -> None:
        """Read an existing file; one that is no journal, or holds no record, reads as empty."""
        self.path = path
        self.provenance: dict[str, str] = {}
        self._entries: dict[str, Entry] = {}
        self._file: BinaryIO | None = None
        self._end = 0
        self._synced = time.monotonic()
        with path.open("rb") as file:
            found = scan(file)
        self._end = found.end
        if found.provenance is not None:
            self.provenance, self._entries = found.provenance, found.entries
            if found.num_lost or found.num_cut > 1:
                logger.warning(
                    "%s is damaged: at least %d of its records are lost and %d are kept; the same "
                    "command makes the lost ones again",
                    path, found.num_lost + found.num_cut, len(found.entries),
                )  # fmt: skip

    @classmethod
    def resume(cls, path: Path, provenance: Mapping[str, str], *, anew: bool = False) -> Self:
        """Create the file, or go on with one; a record that was cut short is dropped.

        A journal that holds no record takes the new provenance; one that does keeps its own. With
        ``anew`` its records are dropped first. The file is locked until it is closed.

        A journal whose head is damaged, as after a power cut, is renamed and a new one is begun.

        Raises:
            ValueError: the file is something else.
            OSError: it cannot be written, or another process is writing it.
        """
        file = lock_file(path)
        try:
            if _is_head_damaged(file, path):
                damaged, file = file, _set_aside(path)
                damaged.close()
            if anew:
                file.truncate(0)
            self = cls(path)
            self._file = file
            if not self._entries:
                self.provenance = dict(provenance)
                self._end = 0
            if self._end and path.stat().st_size > self._end:
                logger.warning("%s was cut short; its last record is made again", path)
            file.truncate(self._end)
            if self._end == 0:
                self._write(MAGIC + pack(Record("", {}, {"": dict(provenance)})))
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
        start, data = self._end, pack(record)
        self._write(data)
        arrays = [(name, array.dtype, array.shape) for name, array in record.arrays.items()]
        entry = Entry(start, self._end, record.group, arrays, record.attrs)
        self._entries[record.group] = entry

    def datasets(self, group: str) -> set[str]:
        """Return names of the arrays of a group that is in the journal."""
        return {name for name, _, _ in self._entries[group].arrays}

    def attributes(self, group: str) -> dict[str, str | float]:
        """Attributes of a group that is in the journal."""
        return dict(self._entries[group].attributes)

    def read(self, group: str) -> Record:
        """Return the last record of a group that is in the journal.

        Raises:
            ValueError: another program changed the file, or put another in its place.
        """
        with self._open_to_read() as file:
            record = read_record(file, self._entries[group].start)
        if record is None or record.group != group:
            raise ValueError(f"{self.path} was changed by another program; start the command again")
        return record

    def require_own_file(self) -> None:
        """Refuse to go on with a file that is not the one at the path any more.

        Raises:
            OSError: another process has deleted or replaced it.
        """
        if self._file is not None and not is_named(self.path, self._file):
            raise OSError(
                f"{self.path} was deleted or replaced by another program while this run wrote; "
                "run the same command again",
            )

    def close(self) -> None:
        """Release the file; it stays on disk."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Delete the file while its lock is held, so that nobody else's is deleted; and close."""
        is_own = self._file is None or is_named(self.path, self._file)
        if sys.platform == "win32":  # deletes no file that is open
            self.close()
        if is_own:
            self.path.unlink(missing_ok=True)
        self.close()
        self._entries = {}

    def _open_to_read(self) -> BinaryIO:
        """Open the file that is locked, whatever the path names by now; else that at the path."""
        if self._file is None:
            return self.path.open("rb")
        return os.fdopen(os.dup(self._file.fileno()), "rb")

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


def _is_head_damaged(file: BinaryIO, path: Path) -> bool:
    """Say whether a journal of ours has lost its head, and with it what it was made with.

    Raises:
        ValueError: the file is something else.
    """
    file.seek(0)
    start = file.read(len(MAGIC))
    if MAGIC.startswith(start):
        found = scan(file)
        return found.provenance is None and (bool(found.entries) or found.num_cut > 1)
    if start.strip(b"\0") and not holds_records(file):
        raise ValueError(f"{path} is no journal of this program; move it elsewhere")
    return True


def _set_aside(path: Path) -> BinaryIO:
    """Rename a damaged journal to a name that is free, and begin a new one."""
    number = 1
    while (kept := path.with_name(f"{path.name}.damaged{number}")).exists():
        number += 1
    path.rename(kept)
    logger.warning(
        "the head of %s is damaged, as after a power cut; it is %s now, and a new one is begun: "
        "what was only in the old one is made again", path, kept.name,
    )  # fmt: skip
    return lock_file(path)
