"""Writing groups of HDF5 files so that damage on the disk is noticed when they are read.

HDF5 keeps checksums of its own records in files of this form, not of the numbers. So small arrays
lie within those records, and larger ones carry a Fletcher-32 checksum of their own.
"""

from collections.abc import Mapping
from typing import Any

import h5py
from numpy.typing import NDArray

from rekd_hloc.storage.journal_records import Record

NEW_FILE = ("v108", "latest")
"""Form of a new file, as of HDF5 1.8: a program that dies while it adds to it leaves no lock."""
ADDITIONS = ("v110", "latest")
"""Form of what is added: as of HDF5 1.10, where a dataset with a checksum takes 2 kB less."""
COMPACT_BYTES = 4_096
"""Arrays up to this size lie within HDF5's records. Zeros have the Fletcher-32 checksum 0: a lost
sector of a disk, which is as large at most, must not take a whole array with its checksum."""


def write_group(file: h5py.File, record: Record) -> None:
    """Write a record in place of the datasets and attributes that its group has."""
    group = file.require_group(record.group)
    for name in [name for name in group if isinstance(group[name], h5py.Dataset)]:
        del group[name]
    for key in list(group.attrs):
        del group.attrs[key]
    for name, array in record.arrays.items():
        write_dataset(group, name, array)
    for name, attributes in record.attrs.items():
        write_attributes(group[name] if name else group, attributes)


def write_dataset(group: h5py.Group, name: str, array: NDArray[Any]) -> None:
    """Write an array with a checksum, which HDF5 compares whenever the array is read."""
    if array.nbytes <= COMPACT_BYTES:
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        group.create_dataset(name, data=array, dcpl=compact)
    else:
        group.create_dataset(name, data=array, chunks=array.shape, fletcher32=True)


def write_attributes(
    item: h5py.Group | h5py.Dataset, attributes: Mapping[str, str | float]
) -> None:
    """Write attributes in place of those of the same names."""
    for key, value in attributes.items():
        if isinstance(value, str):
            # of fixed length: other strings lie in a heap without a checksum, in which HDF5 reads
            # for ever if it is damaged
            text = value.encode()
            kind = h5py.string_dtype("utf-8", max(len(text), 1))
            item.attrs.create(key, text, dtype=kind)
        else:
            item.attrs[key] = value


def has_checksum(dataset: h5py.Dataset) -> bool:
    """Say whether reading a dataset notices every damage in it."""
    if dataset.fletcher32 or dataset.size == 0:
        return True
    is_compact = dataset.id.get_create_plist().get_layout() == h5py.h5d.COMPACT
    return bool(is_compact and h5py.h5o.get_info(dataset.id).hdr.version > 1)
