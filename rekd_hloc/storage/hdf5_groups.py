"""Reading and writing groups of HDF5 files, some of which other programs have damaged."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rekd_hloc.storage.journal import Record

logger = logging.getLogger(__name__)

DATASETS = frozenset(
    ("keypoints", "descriptors", "scores", "scales", "oris", "image_size")
    + ("matches0", "matching_scores0")
)
"""Names in a group of features or matches that need no look whether they are groups."""
MAX_COMPRESSION = 1_100
"""No compression that HDF5 has makes numbers smaller than by this factor."""
HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError)
"""What h5py raises on damaged files."""


def open_hdf5(path: Path) -> h5py.File:
    """Open to read.

    Raises:
        ValueError: it is no HDF5 file, or a damaged one.
        OSError: it may not be read, or another program is writing it.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not an HDF5 file")
    try:
        file = h5py.File(path, "r")
    except (BlockingIOError, PermissionError):
        raise
    except HDF5_ERRORS as error:
        raise ValueError(f"{path} is no HDF5 file, or a damaged one ({error})") from error
    try:
        text_attributes(file)
    except HDF5_ERRORS as error:
        file.close()
        raise ValueError(f"{path} is a damaged HDF5 file ({error})") from error
    return file


def text_attributes(file: h5py.File) -> dict[str, str]:
    """Return a file's attributes that are text."""
    return {str(key): value for key, value in file.attrs.items() if isinstance(value, str)}


def walk(
    group: h5py.Group, marker: str, prefix: str = "", above: tuple[h5py.Group, ...] = ()
) -> Iterator[str]:
    """Paths of the groups below that hold a dataset named ``marker``; damaged ones are left out.

    Example:
        >>> list(walk(h5py.File("features.h5"), "keypoints"))  # doctest: +SKIP
        ['a.jpg', 'folder/b.jpg']
    """
    names = member_names(group)
    if prefix and marker in names and member_kind(group, marker) is h5py.Dataset:
        yield prefix
        names = [name for name in names if name not in DATASETS]
    for name in names:
        below = open_group(group, name)
        if below is not None:
            path = f"{prefix}/{name}" if prefix else name
            if flaw := link_flaw(group, name, below, (*above, group)):
                raise ValueError(f"{group.file.filename}: {path!r} {flaw}")
            yield from walk(below, marker, path, (*above, group))


def link_flaw(
    group: h5py.Group, name: str, below: h5py.Group, above: tuple[h5py.Group, ...]
) -> str | None:
    """Say why a member of a group must not be followed: out of the file, or round in a circle.

    Args:
        group: that holds the member.
        name: of the member.
        below: the group that it leads to.
        above: all groups on the way to it, from the file's root.
    """
    if is_external(group, name):
        return "is a link to another file, which is not followed"
    return "is a link back to a group around it" if below in above else None


def is_external(group: h5py.Group, name: str) -> bool:
    """Say whether a member of a group is a link to another file."""
    return isinstance(group.get(name, getlink=True), h5py.ExternalLink)


def read_dataset(group: h5py.Group, name: str) -> NDArray[Any]:
    """Read numbers that lie in the file itself.

    Raises:
        ValueError: they lie in another file, are no numbers, or claim far more space than they
            take; the message names the dataset.
        OSError, RuntimeError, KeyError, TypeError: the file is damaged there.
    """
    dataset = group[name]
    if is_external(group, name) or dataset.is_virtual or dataset.external:
        raise ValueError(f"`{name}` lies in another file, which is not read")
    if dataset.dtype.kind not in "fiub":
        raise ValueError(f"`{name}` holds values of type {dataset.dtype}, not numbers")
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > MAX_COMPRESSION * stored + 4_096:
        raise ValueError(f"`{name}` claims {dataset.nbytes} bytes and has {stored}")
    return np.asarray(dataset[()])


def member_names(group: h5py.Group) -> list[str]:
    """Return names in a group; none if it is damaged."""
    try:
        return [name for name in group if isinstance(name, str)]
    except HDF5_ERRORS as error:
        logger.debug("damaged group: %s", error)
        return []


def member_kind(group: h5py.Group, name: str) -> type | None:
    """``h5py.Group``, ``h5py.Dataset`` or another; None if it cannot be read."""
    try:
        kind: type | None = group.get(name, getclass=True)
    except HDF5_ERRORS as error:
        logger.debug("damaged member %s: %s", name, error)
        return None
    return kind


def open_group(group: h5py.Group, name: str) -> h5py.Group | None:
    """Return the group of that name; None if it is none, or cannot be read."""
    if member_kind(group, name) is not h5py.Group:
        return None
    try:
        return group[name]
    except HDF5_ERRORS as error:
        logger.debug("damaged group %s: %s", name, error)
        return None


def dataset_names(group: h5py.Group) -> set[str]:
    """Return names of the datasets in a group that can be read."""
    return {name for name in member_names(group) if member_kind(group, name) is h5py.Dataset}


def write_group(file: h5py.File, record: Record) -> None:
    """Write a record in place of the datasets that its group has."""
    group = file.require_group(record.group)
    for name in [name for name in group if isinstance(group[name], h5py.Dataset)]:
        del group[name]
    for name, array in record.arrays.items():
        group.create_dataset(name, data=array)
    for name, attrs in record.attrs.items():
        attributes = (group[name] if name else group).attrs
        for key, value in attrs.items():
            if isinstance(value, str):
                # of fixed length: HDF5 reads for ever in a damaged heap of other strings
                text = value.encode()
                attributes.create(key, text, dtype=h5py.string_dtype("utf-8", max(len(text), 1)))
            else:
                attributes[key] = value


def group_attributes(group: h5py.Group) -> dict[str, Any]:
    """Return a group's attributes, text as ``str``; none if they are damaged."""
    try:
        attributes = dict(group.attrs)
        return {
            key: value.decode() if isinstance(value, bytes) else value
            for key, value in attributes.items()
        }
    except HDF5_ERRORS as error:
        logger.debug("damaged attributes: %s", error)
        return {}
