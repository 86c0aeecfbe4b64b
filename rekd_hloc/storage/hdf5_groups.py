"""Reading groups of HDF5 files, some of which other programs have made or damaged."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

DATASETS = frozenset(
    ("keypoints", "descriptors", "scores", "scales", "oris", "image_size")
    + ("matches0", "matching_scores0")
)
"""Names in a group of features or matches that need no look whether they are groups."""
MAX_COMPRESSION = 1_100
"""No compression that HDF5 has makes numbers smaller than by this factor."""
MAX_DATASET_BYTES = 8 << 30
"""Of one image; descriptors of ten million keypoints have 5 GB."""
MAX_ATTRIBUTE_BYTES = 1 << 20
"""Of a value that is read; our longest, a configuration, has about a thousandth."""
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
    """Return a file's attributes that are text.

    Raises:
        OSError, RuntimeError, KeyError, ValueError, TypeError: the file is damaged there.
    """
    values = {str(key): _attribute(file, key) for key in file.attrs}
    return {key: value for key, value in values.items() if isinstance(value, str)}


def group_attributes(group: h5py.Group | h5py.Dataset) -> dict[str, str | int | float | None]:
    """Return attributes that are text or one number; None in the place of all others.

    Raises:
        ValueError: they are damaged.
    """
    try:
        return {str(key): _attribute(group, key) for key in group.attrs}
    except HDF5_ERRORS as error:
        raise ValueError(f"the attributes of {group.name!r} cannot be read: {error}") from error


def _attribute(item: h5py.Group | h5py.Dataset, key: str) -> str | int | float | None:
    handle = item.attrs.get_id(key)
    is_text = h5py.check_string_dtype(handle.dtype) is not None
    is_one = handle.get_space().get_simple_extent_type() == h5py.h5s.SCALAR
    if not is_one or not (is_text or handle.dtype.kind in "fiub"):
        return None
    if handle.get_storage_size() > MAX_ATTRIBUTE_BYTES:
        return None
    value = item.attrs[key]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else value.item()


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
        ValueError: they lie in another file, are no numbers, claim far more space than they take,
            or are damaged; the message names the dataset.
        OSError, RuntimeError, KeyError, TypeError: the file is damaged there.
    """
    dataset = group[name]
    if is_external(group, name) or dataset.is_virtual or dataset.external:
        raise ValueError(f"`{name}` lies in another file, which is not read")
    if dataset.dtype.kind not in "fiu":
        raise ValueError(f"`{name}` holds values of type {dataset.dtype}, not numbers")
    if dataset.shape is None:
        raise ValueError(f"`{name}` holds no value, not numbers")
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > min(MAX_COMPRESSION * stored + 4_096, MAX_DATASET_BYTES):
        raise ValueError(f"`{name}` claims {dataset.nbytes} bytes and has {stored}")
    try:
        return np.asarray(dataset[()])
    except OSError as error:
        reason = "its checksum fails" if dataset.fletcher32 else f"it cannot be read ({error})"
        raise ValueError(f"`{name}` is damaged: {reason}") from error


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
