"""Reading groups of HDF5 files, some of which other programs have made or damaged."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

MAX_HOPS = 16
"""Soft links that lead to soft links."""
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


def is_external(group: h5py.Group, name: str, hops: int = 0) -> bool:
    """Say whether a member of a group is a link to another file, or to such a link."""
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.SoftLink):
        return isinstance(link, h5py.ExternalLink)
    place = group.file if link.path.startswith("/") else group
    for part in link.path.split("/") if hops < MAX_HOPS else ():
        if part in ("", "."):
            continue
        if is_external(place, part, hops + 1):
            return True
        try:
            place = place.get(part)
        except HDF5_ERRORS:  # damaged, or links that lead to one another
            return False
        if not isinstance(place, h5py.Group):
            return False
    return False


def read_dataset(group: h5py.Group, name: str) -> NDArray[Any]:
    """Read numbers that lie in the file itself.

    Raises:
        ValueError: they lie in another file, are no numbers, claim far more space than they take,
            or are damaged; the message names the dataset.
        OSError, RuntimeError, KeyError, TypeError: the file is damaged there.
    """
    if is_external(group, name):
        raise ValueError(f"`{name}` lies in another file, which is not read")
    dataset = group[name]
    if dataset.is_virtual or dataset.external:
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


def read_group(
    group: h5py.Group,
) -> tuple[dict[str, NDArray[Any]], dict[str, dict[str, str | float]]]:
    """Return the numbers in a group, and their attributes; those of the group are under ``""``.

    Text, and attributes that are neither text nor one number, are left out.

    Raises:
        ValueError: numbers lie in another file, or are damaged.
        OSError, RuntimeError, KeyError, TypeError: the file is damaged there.
    """
    names = [name for name in group if is_external(group, name) or _holds_numbers(group[name])]
    arrays = {name: read_dataset(group, name) for name in names}
    items = {"": group, **{name: group[name] for name in names}}
    found = {name: group_attributes(item) for name, item in items.items()}
    attrs = {n: {k: v for k, v in values.items() if v is not None} for n, values in found.items()}
    return arrays, {name: values for name, values in attrs.items() if values}


def _holds_numbers(item: h5py.Group | h5py.Dataset) -> bool:
    return isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu"
