"""Whether the output of a run is whole, and the same as another's; each raises where it is not."""

import json
from pathlib import Path

import h5py
import numpy as np

from rekd_hloc.sfm.pycolmap_compat import pycolmap

SCRATCH = (".tmp", ".journal", ".old", ".other")


def differences(output: Path, reference: Path) -> None:
    """Compare finished outputs.

    Raises:
        ValueError: something is missing, left over, or another.
    """
    for path in sorted(reference.glob("*.h5")):
        expected, got = read_arrays(path), read_arrays(output / path.name)
        if expected.keys() != got.keys():
            missing, more = expected.keys() - got.keys(), got.keys() - expected.keys()
            raise ValueError(f"{path.name}: {len(missing)} arrays missing, {len(more)} more")
        for name, array in expected.items():
            if not np.array_equal(array, got[name], equal_nan=array.dtype.kind == "f"):
                raise ValueError(f"{path.name}: {name} has other values")
    left = sorted(path.name for path in output.iterdir() if path.name.endswith(SCRATCH))
    if left:
        raise ValueError(f"left over: {left}")
    private = output / ".rekd_hloc"
    left = sorted({path.name for path in private.glob("*")} - {"lock", "made.jsonl"})
    if left:
        raise ValueError(f"left over in {private.name}: {left}")
    missing = {path.name for path in reference.iterdir()} - {p.name for p in output.iterdir()}
    if missing - {"messages"}:
        raise ValueError(f"not there: {sorted(missing)}")
    if (reference / "sparse").is_dir():
        _compare_models(output, reference)


def unsound(output: Path, reference: Path) -> None:
    """Look at what a killed run left: what is there must be right, though not all is there.

    Raises:
        ValueError: a file under its real name is damaged or holds other values.
    """
    for path in sorted(reference.glob("*.h5")):
        if not (output / path.name).exists():
            continue
        expected, got = read_arrays(path), read_arrays(output / path.name)
        for name, array in got.items():
            if name not in expected or not np.array_equal(array, expected[name]):
                raise ValueError(f"{path.name}: {name} is damaged")
    for folder in sorted((output / "sparse").glob("*")):
        _count_registered(folder)
    for path in (output / "report.json", output / "database.json"):
        if path.exists():
            json.loads(path.read_text(encoding="utf-8"))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every dataset of an HDF5 file and every attribute, by name."""
    found = {}

    def note(name: str, item: h5py.Group) -> None:
        for key, value in item.attrs.items():
            found[f"{name}@{key}"] = np.asarray(value)
        if isinstance(item, h5py.Dataset):
            found[name] = np.asarray(item[()])

    try:
        with h5py.File(path, "r") as file:
            note("", file)
            file.visititems(note)
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error
    return found


def _compare_models(output: Path, reference: Path) -> None:
    report, expected = (
        json.loads((folder / "report.json").read_text(encoding="utf-8"))
        for folder in (output, reference)
    )
    counts = [_count_registered(folder / "sparse" / "0") for folder in (output, reference)]
    if counts[0] != counts[1] or report["num_registered"] != expected["num_registered"]:
        raise ValueError(f"{counts[0]} images in the model, {counts[1]} without a kill")


def _count_registered(folder: Path) -> int:
    try:
        return int(pycolmap.Reconstruction(str(folder)).num_reg_images())
    except Exception as error:  # pycolmap raises whatever its reader meets
        raise ValueError(f"the model in {folder.name} cannot be read: {error}") from error
