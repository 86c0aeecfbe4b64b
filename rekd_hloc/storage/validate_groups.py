"""Opening an HDF5 file to check it, and going through its groups; what is wrong becomes issues."""

from collections.abc import Iterator
from pathlib import Path

import h5py

from rekd_hloc.storage.hdf5_groups import HDF5_ERRORS, open_hdf5
from rekd_hloc.storage.hdf5_links import DATASETS, Way, member_kind, open_group
from rekd_hloc.storage.validation_issues import ValidationIssues


def open_to_check(path: Path, issues: ValidationIssues) -> h5py.File | None:
    """Return the open file; None, and an issue noted, if it is none."""
    if not path.is_file():
        issues.add("error", path.name, "missing", "", f"no file {path}")
        return None
    if path.with_name(path.name + ".journal").is_file():
        message = "a run that writes it was interrupted; start the same command again to finish it"
        issues.add("warning", path.name, "journal", "", message)
    try:
        return open_hdf5(path)
    except HDF5_ERRORS as error:
        issues.add("error", path.name, "hdf5", "", str(error).replace(f"{path} ", "", 1))
        return None


def walk_groups(
    group: h5py.Group,
    path: Path,
    issues: ValidationIssues,
    prefix: str = "",
    way: Way | None = None,
) -> Iterator[tuple[str, h5py.Group]]:
    """Return every group that holds datasets, with its path; damaged ones become issues."""
    try:
        way = (way or Way()).into(group)
        kinds = {str(name): member_kind(group, str(name)) for name in group}
    except HDF5_ERRORS as error:
        issues.add("error", path.name, "damaged", prefix or "/", f"cannot be read: {error}")
        return
    if prefix and h5py.Dataset in kinds.values():
        yield prefix, group
    for name, kind in kinds.items():
        if name in DATASETS and kind is h5py.ExternalLink:
            continue  # whoever reads it says so
        path_in_file = f"{prefix}/{name}" if prefix else name
        below = open_group(group, name)
        if flaw := way.flaw(group, name, below):
            issues.add("error", path.name, f"flaw of {path_in_file}", path_in_file, flaw)
        elif below is not None:
            yield from walk_groups(below, path, issues, path_in_file, way)
