"""What files of features and files of matches have in common: opening, going on and closing."""

import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from rekd_hloc.storage.hdf5 import Hdf5File
from rekd_hloc.storage.made_with import refuse_content

logger = logging.getLogger(__name__)


class Store:
    """One file of hloc's schema; a context manager.

    What is written is safe at once, but other programs see it in the file only after closing.

    Attributes:
        path: the HDF5 file.
        provenance: what its content was made with; empty for files of other programs.
    """

    MARKER: ClassVar[str]
    """Dataset that each group of such a file has."""
    _file: Hdf5File

    def __init__(self, path: Path) -> None:
        """Open to read.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no HDF5 file, or a damaged one.
        """
        self._attach(Hdf5File.open(path))

    def require_writable(self) -> None:
        """Say before long work that its results cannot be kept.

        Raises:
            OSError: the file or its folder cannot be written.
        """
        self._file.require_writable()

    def close(self) -> None:
        """Bring the file up to date with all that was written.

        Raises:
            OSError: the disk is full or gone; nothing is lost, resume and close again.
        """
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        _close_after(self._file, error)

    @classmethod
    def _resume(cls, path: Path, provenance: Mapping[str, str], *, overwrite: bool) -> Self:
        refuse_content(path, cls.MARKER, provenance)
        self = cls.__new__(cls)
        self._attach(Hdf5File.resume(path, provenance, overwrite=overwrite))
        return self

    def _attach(self, file: Hdf5File) -> None:
        self._file = file
        self.path = file.path
        self.provenance = file.provenance


def _close_after(file: Hdf5File, error: BaseException | None) -> None:
    """Close at the end of a ``with`` block; an error of the block's own is the one to report."""
    try:
        file.close()
    except OSError as second:
        if error is None:
            raise
        logger.warning("%s", second)
