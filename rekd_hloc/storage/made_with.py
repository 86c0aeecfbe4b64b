"""Whether an HDF5 file can be gone on with: asked before a run changes anything."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from rekd_hloc.files import beside
from rekd_hloc.ownership import HDF5, refuse_kind
from rekd_hloc.storage.hdf5_groups import open_hdf5, text_attributes
from rekd_hloc.storage.hdf5_links import walk
from rekd_hloc.storage.journal import Journal
from rekd_hloc.storage.provenance import differs, refuse_other

CONTENTS = {"keypoints": "features", "matches0": "matches", "words": "an index"}
"""What a file holds, by a dataset that it has then."""


def read_provenance(path: Path) -> dict[str, str]:
    """Return what a file records it was made with; nothing if there is none.

    Raises:
        ValueError: it is no HDF5 file, or a damaged one.
    """
    if not path.exists():
        return {}
    with open_hdf5(path) as file:
        return text_attributes(file)


def refuse_content(path: Path, marker: str, provenance: Mapping[str, str]) -> None:
    """Refuse to write features where matches are, or matches where features are.

    A file made with ``provenance`` is not looked through. A damaged one is for others to judge.

    Args:
        path: to be written.
        marker: of ``CONTENTS``, what would be written.
        provenance: what it would be made with.

    Raises:
        FileExistsError: the file, or its journal, holds the other; it is not even overwritten.
    """
    found: set[str] = set()
    journal_path = beside(path, ".journal")
    with contextlib.suppress(OSError, ValueError):
        if path.is_file():
            with open_hdf5(path) as file:
                if differs(text_attributes(file), provenance):
                    found |= {name for name in CONTENTS if next(walk(file, name), None)}
    with contextlib.suppress(OSError, ValueError):
        if journal_path.is_file():
            journal = Journal(journal_path)
            if differs(journal.provenance, provenance):
                found |= {name for group in journal for name in journal.datasets(group)}
    others = [CONTENTS[name] for name in CONTENTS if name in found and name != marker]
    if others and marker not in found:
        raise FileExistsError(
            f"{path} holds {others[0]}, where {CONTENTS[marker]} would go; choose another output"
        )


def is_other(path: Path, marker: str, provenance: Mapping[str, str], *, overwrite: bool) -> bool:
    """Say whether a file or its journal cannot be gone on with, and is to be made anew.

    Args:
        path: to be written.
        marker: of ``CONTENTS``, what would be written.
        provenance: what it would be made with.
        overwrite: the user allows to replace what is there.

    Raises:
        ValueError: it was made with something else, or is no HDF5 file, and ``overwrite`` is off.
        FileExistsError: it is of a kind that is not even overwritten.
    """
    refuse_kind(path, HDF5)
    refuse_content(path, marker, provenance)
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
