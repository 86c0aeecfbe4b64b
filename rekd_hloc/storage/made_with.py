"""Whether an HDF5 file can be gone on with: asked before a run changes anything."""

from collections.abc import Mapping
from pathlib import Path

from rekd_hloc.files import beside
from rekd_hloc.ownership import HDF5, refuse_kind
from rekd_hloc.storage.hdf5_groups import open_hdf5, text_attributes
from rekd_hloc.storage.journal import Journal
from rekd_hloc.storage.provenance import refuse_other


def read_provenance(path: Path) -> dict[str, str]:
    """Return what a file records it was made with; nothing if there is none.

    Raises:
        ValueError: it is no HDF5 file, or a damaged one.
    """
    if not path.exists():
        return {}
    with open_hdf5(path) as file:
        return text_attributes(file)


def is_other(path: Path, provenance: Mapping[str, str], *, overwrite: bool) -> bool:
    """Say whether a file or its journal cannot be gone on with, and is to be made anew.

    Raises:
        ValueError: it was made with something else, or is no HDF5 file, and ``overwrite`` is off.
        FileExistsError: it is of a kind that is not even overwritten.
    """
    refuse_kind(path, HDF5)
    journal_path = beside(path, ".journal")
    try:
        if path.exists():
            refuse_other(path, read_provenance(path), provenance)
        if journal_path.is_file() and len(journal := Journal(journal_path)):
            refuse_other(path, journal.provenance, provenance)
    except ValueError:
        if not overwrite:
            raise
        return True
    return False
