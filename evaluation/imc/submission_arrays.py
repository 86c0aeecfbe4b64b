"""The HDF5 files of an IMC submission: one array for each image or pair.

A pair's name is ``imageA-imageB`` with the name that sorts last in front; images have no suffix.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rekd_hloc.files import atomic_write
from rekd_hloc.storage.validation_issues import ValidationIssues

UNREADABLE = (OSError, KeyError, RuntimeError, ValueError)


def pair_key(a: str, b: str) -> str:
    """Return the benchmark's name of a pair: the image that sorts last comes first."""
    return f"{max(a, b)}-{min(a, b)}"


def write_arrays(path: Path, arrays: Iterable[tuple[str, NDArray[Any]]]) -> None:
    """Write named arrays to an HDF5 file, whole or not at all; they may come one by one."""
    with atomic_write(path) as scratch, h5py.File(scratch, "w") as file:
        for name, array in arrays:
            file.create_dataset(name, data=array)


def check_names(
    arrays: Mapping[str, Any], wanted: Iterable[str], file: str, issues: ValidationIssues
) -> None:
    """Add issues of datasets that are missing, and those that have no such image or pair."""
    names = set(wanted)
    for name in sorted(names - set(arrays)):
        issues.add("error", file, "missing", name, "is missing")
    for name in sorted(set(arrays) - names):
        a, _, b = name.partition("-")
        hint = "; the pair is there the other way round" if f"{b}-{a}" in names else ""
        issues.add("error", file, "unknown", name, f"is no name of the data{hint}")


def check_count(
    name: str, count: int, counts: Mapping[str, int], file: str, issues: ValidationIssues
) -> None:
    """Add an issue of an image whose rows are not as many as its keypoints."""
    if name in counts and counts[name] != count:
        message = f"has {count} rows for {counts[name]} keypoints"
        issues.add("error", file, "count", name, message)


def check_finite(name: str, values: NDArray[Any], file: str, issues: ValidationIssues) -> None:
    """Add an issue of values that are infinite or no numbers."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        issues.add("error", file, "finite", name, "has values that are not finite")


def read_arrays(
    path: Path, file: str, issues: ValidationIssues, *, needed: bool
) -> dict[str, NDArray[Any]] | None:
    """Read all arrays of a file; None where it does not exist or cannot be read."""
    if not path.is_file():
        if needed:
            issues.add("error", file, "missing", "", "is missing")
        return None
    try:
        with h5py.File(path, "r") as store:
            arrays = {name: np.asarray(store[name]) for name in store}
    except UNREADABLE as error:
        issues.add("error", file, "read", "", f"cannot be read: {error}")
        return None
    if not arrays:
        issues.add("error", file, "empty", "", "holds nothing")
        return None
    return arrays
