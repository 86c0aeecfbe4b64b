"""Check a features file of hloc's form, image by image."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rekd_hloc.storage.feature_arrays import SCORES, image_size_of, keypoints_of, value_range_of
from rekd_hloc.storage.hdf5_groups import (
    HDF5_ERRORS,
    group_attributes,
    read_dataset,
)
from rekd_hloc.storage.hdf5_links import (
    dataset_names,
)
from rekd_hloc.storage.matches import INT16_MAX
from rekd_hloc.storage.names import check_name, names_by_key
from rekd_hloc.storage.validate_deep import DeepCheck
from rekd_hloc.storage.validate_groups import open_to_check, walk_groups
from rekd_hloc.storage.validation_issues import ValidationIssues

NORM_TOLERANCE = 0.02
"""How far a descriptor's length may be from 1; float16 alone makes 0.001."""
EDGE_PX = 0.5
"""From the centre of the outermost pixels to the edge of the image."""
MIN_ANGLES = 20
"""So few angles may all be small by chance."""
NEEDED_BY = {
    "oris": "NN-rekd, the orientation filter, AdaLAM, and LightGlue for SIFT need them",
    "scales": "AdaLAM, and LightGlue for SIFT, need them",
    "scores": "SuperGlue needs them",
}
PER_KEYPOINT = (*SCORES, "scales", "oris")
LACKED_BY_DENSE = {
    "descriptors": "plot, export and reconstruction go without, matching needs them",
    "image_size": "the photos tell it; matching needs it here",
}
"""What files of dense matchers like LoFTR do not have, and what that means."""
KNOWN = frozenset(("keypoints", *LACKED_BY_DENSE, *PER_KEYPOINT, "global_descriptor"))


def check_features(path: Path, issues: ValidationIssues, *, deep: bool = False) -> dict[str, int]:
    """Note what is wrong with a features file; a deep check reads every number in it.

    Returns:
        How many keypoints each image has; images that cannot be read are left out.
    """
    counts: dict[str, int] = {}
    present: dict[str, frozenset[str]] = {}
    channels: dict[int, str] = {}
    ranges: dict[str, tuple[float, float]] = {}
    file = open_to_check(path, issues)
    if file is None:
        return counts
    all_bytes = DeepCheck(path.name, issues, is_on=deep)
    with file:
        for name, group in walk_groups(file, path, issues):
            report = _Report(issues, path.name, name)
            try:
                known = dataset_names(group) & KNOWN
                arrays = {key: read_dataset(group, key) for key in known}
            except HDF5_ERRORS as error:
                all_bytes.note_damage(name, error)
                continue
            all_bytes.read_rest(name, group, KNOWN)
            if _check_schema(arrays, report):
                counts[name] = len(arrays["keypoints"])
                _check_values(arrays, report)
                present[name] = frozenset(arrays)
                limits = value_range_of(group_attributes(group))
                if limits is not None:
                    ranges[name] = limits
                if "descriptors" in arrays:
                    channels.setdefault(len(arrays["descriptors"]), name)
    all_bytes.close()
    if not counts:
        issues.add("error", path.name, "none", "", "no image with keypoints in it")
    _check_lacking(path.name, present, issues)
    if ranges:
        name, (black, white) = next(iter(ranges.items()))
        message = (
            f"{len(ranges)} images not of 8 bits; {name!r} was read from {black:g} to {white:g}"
        )
        issues.add("info", path.name, "depth", "", message)
    _check_whole(path.name, counts, present, channels, issues)
    return counts


class _Report:
    """Adds issues about one image."""

    def __init__(self, issues: ValidationIssues, file: str, item: str) -> None:
        self._issues, self._file, self.item = issues, file, item

    def error(self, kind: str, message: str) -> bool:
        self._issues.add("error", self._file, kind, self.item, message)
        return False

    def warning(self, kind: str, message: str) -> None:
        self._issues.add("warning", self._file, kind, self.item, message)


def _check_schema(arrays: dict[str, NDArray[Any]], report: _Report) -> bool:
    """Say whether names, kinds and shapes are such that the values can be looked at."""
    if "global_descriptor" in arrays and "keypoints" not in arrays:
        return report.error("global", "holds a global descriptor; give the file of keypoints")
    try:
        check_name(report.item)
    except ValueError as error:
        return report.error("name", str(error))
    if "keypoints" not in arrays:
        return report.error("no keypoints", "has no `keypoints`; extract this image again")
    for name, array in arrays.items():
        if array.dtype.kind not in "iuf":
            return report.error(f"kind {name}", f"`{name}` is {array.dtype}, not numbers")
    xy = arrays["keypoints"]
    if xy.ndim != 2 or xy.shape[1] < 2:
        return report.error("xy shape", f"`keypoints` has shape {xy.shape}, not (keypoint, 2)")
    if xy.shape[1] > 2:
        report.warning("columns", f"`keypoints` has {xy.shape[1]} columns; hloc takes (x, y) only")
    try:
        image_size_of(arrays)
    except ValueError as error:
        return report.error("size", str(error))
    count = len(xy)
    descriptors = arrays.get("descriptors", np.zeros((0, count)))
    if descriptors.ndim != 2 or descriptors.shape[1] != count:
        hint = "transpose it" if descriptors.shape[:1] == (count,) else "extract this image again"
        return report.error(
            "descriptor shape",
            f"`descriptors` has shape {descriptors.shape} for {count} keypoints, not "
            f"(channel, keypoint); {hint}",
        )
    for name in PER_KEYPOINT:
        if name in arrays and arrays[name].shape != (count,):
            return report.error(
                f"shape {name}", f"`{name}` has shape {arrays[name].shape} for {count} keypoints"
            )
    return True


def _check_values(arrays: dict[str, NDArray[Any]], report: _Report) -> None:
    for name in ("keypoints", "descriptors", *PER_KEYPOINT):
        bad = np.size(arrays.get(name, 0)) - np.isfinite(arrays.get(name, 0)).sum()
        if bad:
            report.error(f"finite {name}", f"{bad} values of `{name}` are not finite")
            return
    if len(arrays["keypoints"]) == 0:
        report.warning("empty", "has no keypoint: hloc's NN answers with a wrong length for it")
        return
    try:
        keypoints_of(arrays)
    except ValueError as error:  # too large for single precision, or below zero
        report.error("values", str(error))
        return
    _check_positions(arrays["keypoints"], image_size_of(arrays), report)
    if "descriptors" in arrays:
        _check_norms(arrays["descriptors"], report)
    if (arrays.get("scales", np.ones(1)) <= 0).any():
        report.warning("scales", "some `scales` are not positive")
    oris = arrays.get("oris", np.zeros(0))
    if len(oris) >= MIN_ANGLES and np.ptp(oris) > 0 and np.abs(oris).max() <= 2 * np.pi + 0.01:
        report.warning("oris", "`oris` look like radians; hloc's are degrees")


def _check_norms(descriptors: NDArray[Any], report: _Report) -> None:
    with np.errstate(over="ignore"):
        norm = np.linalg.norm(descriptors.astype(np.float64), axis=0)
    far = int((np.abs(norm - 1.0) > NORM_TOLERANCE).sum())
    if far:
        report.warning(
            "norm",
            f"{far} descriptors have another length than 1, from {norm.min():.3g} to "
            f"{norm.max():.3g}; NN matchers need unit length",
        )


def _check_positions(
    keypoints: NDArray[Any], size: tuple[int, int] | None, report: _Report
) -> None:
    xy = keypoints[:, :2].astype(np.float64)
    count = len(xy)
    if count > INT16_MAX:
        report.warning(
            "many",
            f"has {count} keypoints; hloc stores matches in 16 bits, which end at {INT16_MAX}",
        )
    if keypoints.dtype == np.float16:
        largest = float(np.abs(xy).max())
        step = float(np.spacing(np.float16(largest))) / 2
        report.warning(
            "half",
            f"`keypoints` are float16, wrong by up to {step:g} px at {largest:.0f} px; extract "
            "with as_half=False",
        )
    if size is None:
        return
    outside = _num_outside(xy, size)
    if outside and not _num_outside(xy[:, ::-1], size):
        report.error("swapped", f"{outside} keypoints lie outside as (x, y), none as (y, x)")
    elif outside:
        report.warning(
            "outside",
            f"{outside} of {count} keypoints lie outside the {size[0]}x{size[1]} px image",
        )


def _num_outside(xy: NDArray[np.float64], size: tuple[int, int]) -> int:
    return int(((xy < -EDGE_PX) | (xy > np.array(size) - EDGE_PX)).any(axis=1).sum())


def _check_lacking(file: str, present: dict[str, frozenset[str]], issues: ValidationIssues) -> None:
    """Tell a file of a dense matcher from one in which an image lacks something."""
    for key, meaning in LACKED_BY_DENSE.items():
        names = [name for name, keys in present.items() if key not in keys]
        if names and len(names) == len(present):
            message = f"no `{key}`, as dense matchers write none: {meaning}"
            issues.add("info", file, f"no {key}", "", message)
            continue
        for name in names:
            message = f"has no `{key}`; extract this image again"
            issues.add("error", file, f"no {key}", name, message)


def _check_whole(
    file: str,
    counts: dict[str, int],
    present: dict[str, frozenset[str]],
    channels: dict[int, str],
    issues: ValidationIssues,
) -> None:
    if len(channels) > 1:
        widths = ", ".join(f"{number} ({name})" for number, name in channels.items())
        message = f"descriptors with several numbers of channels: {widths}; do not mix extractors"
        issues.add("error", file, "channels", "", message)
    try:
        names_by_key(counts)
    except ValueError as error:
        issues.add("error", file, "collision", "", str(error))
    for name, need in NEEDED_BY.items():
        number = sum(name in keys for keys in present.values())
        if counts and 0 < number < len(counts):
            message = f"only {number} of {len(counts)} images have `{name}`; do not mix extractors"
            issues.add("warning", file, f"some {name}", "", message)
        elif counts and number == 0:
            issues.add("info", file, f"no {name}", "", f"no `{name}`: {need}")
    if counts:
        low, high = min(counts.values()), max(counts.values())
        width = f" of {min(channels)} channels" if channels else ""
        message = f"{len(counts)} images with {low} to {high} keypoints{width}"
        issues.add("info", file, "summary", "", message)
