"""An HDF5 file that is only ever replaced whole, and the journal beside it until then.

Writers append to ``<file>.journal``. Closing copies the file to ``<file>.rekd.tmp``, adds the
records, and renames it over the file. Whoever dies in between leaves the old file and the journal,
and the next writer goes on with both. A file records what it was made with, and takes nothing else.
"""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import h5py

from rekd_hloc.files import SCRATCH_SUFFIX, atomic_write, beside, explain_os_error, find_obstacle
from rekd_hloc.locks import share_folder
from rekd_hloc.ownership import HDF5, refuse_kind
from rekd_hloc.storage.hdf5_groups import (
    HDF5_ERRORS,
    group_attributes,
    is_external,
    open_hdf5,
    read_dataset,
    read_group,
    text_attributes,
)
from rekd_hloc.storage.hdf5_links import GroupFinder, dataset_names, walk
from rekd_hloc.storage.hdf5_writing import ADDITIONS, NEW_FILE, write_attributes, write_group
from rekd_hloc.storage.journal import Journal, Record
from rekd_hloc.storage.provenance import OtherSettingsError, differs, refuse_other

logger = logging.getLogger(__name__)

RECORD_BYTES, FILE_BYTES = 8_192, 1 << 20
"""More than HDF5 needs for a group's own records (about 2,000 bytes measured), and for a file's."""


class Hdf5File:
    """Groups of arrays in a file and in the journal beside it.

    Attributes:
        path: the HDF5 file.
        provenance: the file's text attributes.
    """

    def __init__(
        self,
        path: Path,
        file: h5py.File | None,
        journal: Journal | None,
        provenance: dict[str, str],
        *,
        is_writable: bool,
    ) -> None:
        """Use :meth:`open` or :meth:`resume`."""
        self.path = path
        self.provenance = provenance
        self._file = file
        self._finder = GroupFinder()
        self._journal = journal
        self._is_writable = is_writable
        self._obstacle: OSError | None = None
        self._shared = contextlib.ExitStack()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open to read.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no HDF5 file, or a damaged one.
        """
        journal_path = beside(path, ".journal")
        if not path.exists():
            hint = "; a run that writes it was interrupted: let it go on first"
            raise FileNotFoundError(f"no file {path}{hint if journal_path.exists() else ''}")
        journal = None
        with contextlib.suppress(FileNotFoundError):  # its writer may be about to finish
            journal = Journal(journal_path)
        file = open_hdf5(path)
        provenance = text_attributes(file)
        if journal is not None and differs(provenance, journal.provenance):
            logger.warning("%s is being made anew; what is read is the old file", path)
            journal = None
        return cls(path, file, journal, provenance, is_writable=False)

    @classmethod
    def resume(cls, path: Path, provenance: Mapping[str, str], *, overwrite: bool = False) -> Self:
        """Open to write: a new file, or one made with the same provenance.

        A file that is there and cannot be written is opened as well, since there may be nothing to
        add; :meth:`require_writable` says.

        Raises:
            ValueError: the file was made with something else, or is no HDF5 file.
            OSError: the folder cannot be written, or another process is writing the file.
        """
        journal_path = beside(path, ".journal")
        try:
            journal_path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain_os_error(error, path) from error
        if obstacle := find_obstacle(path):
            return cls._open_finished(path, provenance, obstacle, overwrite=overwrite)
        self = cls(path, None, None, dict(provenance), is_writable=True)
        try:
            if overwrite:
                refuse_kind(path, HDF5)
            self._shared.enter_context(share_folder(journal_path.parent))
            self._journal = Journal.resume(journal_path, provenance, anew=overwrite)
            if overwrite:
                refuse_kind(path, HDF5)
                path.resolve().unlink(missing_ok=True)
            refuse_other(path, self._journal.provenance, provenance)
            self.provenance = dict(self._journal.provenance)
            self._file = open_hdf5(path) if path.exists() else None
            if self._file is not None:
                self.provenance = text_attributes(self._file)  # as made, maybe in older names
                refuse_other(path, self.provenance, provenance)
            beside(path, SCRATCH_SUFFIX).unlink(missing_ok=True)
        except BaseException:
            if self._journal is not None and not len(self._journal):
                self._journal.remove()
            self.release()
            raise
        return self

    @classmethod
    def _open_finished(
        cls, path: Path, provenance: Mapping[str, str], obstacle: OSError, *, overwrite: bool
    ) -> Self:
        if overwrite:
            raise obstacle
        self = cls.open(path)
        self._obstacle = obstacle
        if differs(self.provenance, provenance):
            self.release()
            refuse_other(path, self.provenance, provenance)
        return self

    def require_writable(self) -> None:
        """Raise the OSError that says why nothing can be added, before long work is in vain."""
        if self._obstacle is not None:
            raise self._obstacle

    def __contains__(self, group: str) -> bool:
        if self._journal is not None and group in self._journal:
            return True
        return self._find(group) is not None

    def groups(self, marker: str) -> list[str]:
        """Return sorted paths of the groups that hold a dataset of this name."""
        groups = set(self._journal or ())
        if self._file is not None:
            groups.update(walk(self._file, marker))
        return sorted(groups)

    def datasets(self, group: str) -> set[str]:
        """Return names of the datasets in a group; none if there is no such group."""
        if self._journal is not None and group in self._journal:
            return self._journal.datasets(group)
        stored = self._find(group)
        return set() if stored is None else dataset_names(stored)

    def attributes(self, group: str) -> dict[str, Any]:
        """Return attributes of a group; none if there is no such group.

        Raises:
            ValueError: the file is damaged there.
        """
        if self._journal is not None and group in self._journal:
            return self._journal.attributes(group)
        stored = self._find(group)
        try:
            return {} if stored is None else group_attributes(stored)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error

    def read(self, group: str, names: tuple[str, ...]) -> Record | None:
        """The group with those of the named datasets it has, without attributes, or None.

        Raises:
            ValueError: the file is damaged there.
        """
        if self._journal is not None and group in self._journal:
            return self._journal.read(group)
        stored = self._find(group)
        if stored is None:
            return None
        try:
            present = [name for name in names if is_external(stored, name) or name in stored]
            return Record(group, {name: read_dataset(stored, name) for name in present})
        except HDF5_ERRORS as error:
            raise ValueError(f"{self.path}: {group!r} cannot be read: {error}") from error

    def read_all(self, group: str) -> Record | None:
        """Return a group with all its numbers and attributes, or None; as :meth:`read` raises."""
        if self._journal is not None and group in self._journal:
            return self._journal.read(group)
        stored = self._find(group)
        try:
            return None if stored is None else Record(group, *read_group(stored))
        except HDF5_ERRORS as error:
            raise ValueError(f"{self.path}: {group!r} cannot be read: {error}") from error

    def append(self, record: Record) -> None:
        """Keep a record for good, though it enters the HDF5 file on closing only.

        Raises:
            ValueError: the file was opened to read.
            OSError: the disk is full or gone.
        """
        self.require_writable()
        if self._journal is None or not self._is_writable:
            raise ValueError(f"{self.path} is not open for writing; open it with resume")
        self._journal.append(record)

    def close(self) -> None:
        """Write what was appended into the HDF5 file, if it was opened to write.

        Raises:
            OSError: the disk is full or gone; the journal stays and nothing is lost.
        """
        journal, is_new = self._journal, self._file is None
        try:
            if self._file is not None:
                self._file.close()
                self._file = None
            if not self._is_writable or journal is None:
                return
            self._is_writable = False
            journal.require_own_file()
            if is_new or len(journal):
                self._merge(journal, is_new)
            journal.remove()
        finally:
            self.release()

    def release(self) -> None:
        """Close all handles; the journal stays as it is."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self._shared.close()

    def _find(self, group: str) -> h5py.Group | None:
        if self._file is None or not group:
            return None
        try:
            return self._finder(self._file, group)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error

    def _merge(self, journal: Journal, is_new: bool) -> None:
        if is_new == self.path.exists():
            raise OSError(
                f"{self.path} was made or deleted by another program while this run wrote; what "
                f"this run wrote is in {journal.path}, and the same command goes on from there",
            )
        try:
            with atomic_write(self.path, kept_in=journal.path, durable=True) as scratch:
                if is_new:
                    with h5py.File(scratch, "w", libver=NEW_FILE) as file:
                        write_attributes(file, self.provenance)
                else:
                    shutil.copy(self.path, scratch)
                _reserve(scratch, journal.size() + len(journal) * RECORD_BYTES + FILE_BYTES)
                with h5py.File(scratch, "r+", libver=ADDITIONS) as file:
                    refuse_other(self.path, text_attributes(file), journal.provenance)
                    for group in journal:
                        write_group(file, journal.read(group))
        except (OSError, OtherSettingsError):
            raise
        except HDF5_ERRORS as error:
            raise ValueError(
                f"{self.path} is damaged ({error}); move it away: what this run wrote is in "
                f"{journal.path}, and the same command goes on from there"
            ) from error


def _reserve(path: Path, num_bytes: int) -> None:
    """Take disk space now: where HDF5 itself meets a full disk, it ends the process."""
    if hasattr(os, "posix_fallocate"):
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), path.stat().st_size, num_bytes)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
        else:
            return
    if shutil.disk_usage(path.parent).free < num_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
