"""Looks at the files of matches of an IMC submission: names, pairs, shapes and indices."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.imc.submission_arrays import check_names, pair_key, read_arrays
from rekd_hloc.storage.validation_issues import ValidationIssues

STEREO_RUNS = 3


def check_matches(
    folder: Path,
    scene: str,
    images: Sequence[str],
    counts: Mapping[str, int],
    found: ValidationIssues,
) -> None:
    """Note what is wrong with the files of matches of one scene.

    Args:
        folder: of the submission.
        scene: ``<dataset>/<scene>``.
        images: that the scene has.
        counts: keypoints of each image that has some.
        found: to add to.
    """
    present = sorted(path.name for path in (folder / scene).glob("match*"))
    _check_match_files(present, scene, found)
    keys = {pair_key(a, b): (a, b) for a, b in itertools.combinations(sorted(images), 2)}
    for name in present:
        file = f"{scene}/{name}"
        arrays = read_arrays(folder / file, file, found, needed=True)
        if arrays is None:
            continue
        check_names(arrays, keys, file, found)
        for key, index in arrays.items():
            if key in keys:
                first, second = keys[key][::-1]
                _check_index(key, index, counts.get(first), counts.get(second), file, found)


def _check_match_files(present: Sequence[str], scene: str, found: ValidationIssues) -> None:
    """Either ``matches.h5`` alone, or files for stereo and for multiview."""
    stereo = [f"matches_stereo_{run}.h5" for run in range(STEREO_RUNS)]
    known = {"matches.h5", "matches_multiview.h5", "matches_stereo.h5", *stereo}
    for name in sorted(set(present) - known):
        found.add("error", f"{scene}/{name}", "name", "", "no file of the benchmark has this name")
    if "matches.h5" in present:
        if len(present) > 1:
            message = "stands for both tasks; remove the other files of matches, or this one"
            found.add("error", f"{scene}/matches.h5", "alone", "", message)
        return
    if not present:
        return
    if "matches_multiview.h5" not in present:
        found.add("error", f"{scene}/matches_multiview.h5", "missing", "", "is missing")
    if not {"matches_stereo.h5", stereo[0]} & set(present):
        found.add("error", f"{scene}/{stereo[0]}", "missing", "", "is missing")
    more = [name for name in stereo[1:] if name in present]
    if len(more) == 1:
        message = "there must be one run or three"
        found.add("error", f"{scene}/{more[0]}", "runs", "", message)
    elif more:
        message = "the 2021 challenge runs stereo once and asks to leave the second and third away"
        found.add("info", f"{scene}/{more[0]}", "runs", "", message)


def _check_index(
    key: str,
    index: NDArray[Any],
    num_a: int | None,
    num_b: int | None,
    file: str,
    found: ValidationIssues,
) -> None:
    if index.ndim != 2 or index.shape[0] != 2:
        found.add("error", file, "shape", key, f"has shape {index.shape}, it must be (2, match)")
        return
    if index.dtype.kind not in "iu":
        found.add("error", file, "dtype", key, f"is of type {index.dtype}, not of integers")
        return
    for row, count, image in zip(index, (num_a, num_b), ("first", "second"), strict=True):
        if not len(row) or count is None:
            continue
        if row.min() < 0 or row.max() >= count:
            message = (
                f"has indices from {row.min()} to {row.max()} in the {image} image, "
                f"which has {count} keypoints"
            )
            found.add("error", file, "range", key, message)
    if len(np.unique(index, axis=1).T) < index.shape[1]:
        found.add("warning", file, "repeated", key, "has the same match twice")
