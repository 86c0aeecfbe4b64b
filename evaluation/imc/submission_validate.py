"""Validates a folder as an IMC submission, as the organisers' own program would.

It holds ``config.json`` and, for each ``<dataset>/<scene>``, HDF5 files with one dataset an image
(``keypoints``, ``descriptors``, ``scores``, ``scales``, ``angles``) or a pair (``matches*``).
All images are validated, not the first one alone; what cannot be read is an issue.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.imc.dataset import DATASETS
from evaluation.imc.submission_arrays import (
    check_count,
    check_finite,
    check_names,
    pair_key,
    read_arrays,
)
from evaluation.imc.submission_config import CATEGORIES, CONFIG, check_config, uses_custom_matches
from rekd_hloc.storage.validation_issues import Level, ValidationIssue, ValidationIssues

PER_IMAGE = ("scores", "scales", "angles")
MIN_CHANNELS, MAX_CHANNELS = 64, 2048
MAX_BYTES_TO_MATCH = 512
"""Largest descriptor that the organisers match themselves; larger ones need files of matches."""
MAX_BYTES = 8192
STEREO_RUNS = 3


def validate_submission(folder: Path, scenes: Mapping[str, Sequence[str]]) -> list[ValidationIssue]:
    """Return the validation issues of a submission.

    Args:
        folder: of the submission.
        scenes: the image names without suffix of each scene that it must have, by
            ``<dataset>/<scene>``.

    Returns:
        Errors are what the organisers refuse or what would spoil the result.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no submission folder {folder}")
    issues = ValidationIssues()
    datasets = sorted({scene.split("/")[0] for scene in scenes})
    content = _check_json(folder / CONFIG, datasets, issues)
    largest, forms = 0, set()
    for scene, images in scenes.items():
        if not (folder / scene).is_dir():
            issues.add("error", scene, "missing", "", "the submission lacks this scene")
            continue
        counts = _check_keypoints(folder, scene, images, issues)
        largest = max([largest, *counts.values()])
        forms |= _check_descriptors(folder, scene, counts, issues)
        for kind in PER_IMAGE:
            _check_per_image(folder, f"{scene}/{kind}.h5", counts, issues)
        _check_matches(folder, scene, images, counts, issues)
        _check_promise(folder, scene, content, issues)
    _check_scenes(folder, scenes, issues)
    if len(forms) > 1:
        message = f"descriptors differ in channels or type: {sorted(forms)}"
        issues.add("error", "descriptors.h5", "forms", "", message)
    _check_category(content, largest, issues)
    return issues.fold()


def _check_json(path: Path, datasets: Sequence[str], issues: ValidationIssues) -> Any:
    """Return the config's content if it has no flaw, else None."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        issues.add("error", CONFIG, "read", "", f"cannot be read: {error}")
        return None
    flaws = check_config(content, datasets)
    for flaw in flaws:
        issues.add("error", CONFIG, flaw, "", flaw)
    return None if flaws else content


def _check_category(content: Any, largest: int, issues: ValidationIssues) -> None:
    limit = CATEGORIES[-1]
    if content is not None and content[0]["config_common"]["num_keypoints"] != -1:
        limit = content[0]["config_common"]["num_keypoints"]
    level: Level = "error" if largest > limit else "info"
    issues.add(
        level, "keypoints.h5", "category", "",
        f"the largest image has {largest} keypoints, the category is {limit}",
    )  # fmt: skip


def _check_scenes(
    folder: Path, scenes: Mapping[str, Sequence[str]], issues: ValidationIssues
) -> None:
    for path in sorted(folder.glob("*/*/")):
        name = path.relative_to(folder).as_posix()
        if name not in scenes and name.split("/")[0] in DATASETS:
            issues.add("warning", name, "extra", "", "no such scene in the data; not validated")


def _check_keypoints(
    folder: Path, scene: str, images: Sequence[str], issues: ValidationIssues
) -> dict[str, int]:
    """Return the number of keypoints of each image whose keypoints can be used."""
    file = f"{scene}/keypoints.h5"
    arrays = read_arrays(folder / file, file, issues, needed=True)
    if arrays is None:
        return {}
    check_names(arrays, images, file, issues)
    counts = {}
    for name, xy in arrays.items():
        if xy.ndim != 2 or xy.shape[1] != 2:
            message = f"has shape {xy.shape}, it must be (keypoint, 2)"
            issues.add("error", file, "shape", name, message)
            continue
        counts[name] = len(xy)
        if xy.dtype.kind != "f":
            issues.add("error", file, "dtype", name, f"is of type {xy.dtype}, not floating point")
        elif not np.isfinite(xy).all():
            issues.add("error", file, "finite", name, "has coordinates that are not finite")
        if not len(xy):
            issues.add("warning", file, "empty", name, "has no keypoint")
    return counts


def _check_descriptors(
    folder: Path, scene: str, counts: Mapping[str, int], issues: ValidationIssues
) -> set[tuple[int, str]]:
    """Return the (channels, type) that occur."""
    file = f"{scene}/descriptors.h5"
    has_matches = any((folder / scene).glob("matches*.h5"))
    arrays = read_arrays(folder / file, file, issues, needed=not has_matches)
    if arrays is None:
        return set()
    check_names(arrays, counts, file, issues)
    forms = set()
    for name, rows in arrays.items():
        if rows.ndim != 2 or not MIN_CHANNELS <= rows.shape[1] <= MAX_CHANNELS:
            message = (
                f"has shape {rows.shape}, it must be (keypoint, channel) with "
                f"{MIN_CHANNELS} to {MAX_CHANNELS} channels"
            )
            issues.add("error", file, "shape", name, message)
            continue
        forms.add((rows.shape[1], str(rows.dtype)))
        check_count(name, len(rows), counts, file, issues)
        check_finite(name, rows, file, issues)
        num_bytes = rows.shape[1] * rows.dtype.itemsize
        limit = MAX_BYTES if has_matches else MAX_BYTES_TO_MATCH
        if num_bytes > limit:
            message = f"has descriptors of {num_bytes} bytes, {limit} are allowed"
            more = "" if has_matches else " without files of matches"
            issues.add("error", file, "bytes", name, message + more)
    return forms


def _check_per_image(
    folder: Path, file: str, counts: Mapping[str, int], issues: ValidationIssues
) -> None:
    arrays = read_arrays(folder / file, file, issues, needed=False)
    if arrays is None:
        return
    check_names(arrays, counts, file, issues)
    for name, values in arrays.items():
        if values.ndim != 1 or values.dtype.kind != "f":
            message = f"is {values.dtype} of shape {values.shape}, not floats of (keypoint,)"
            issues.add("error", file, "shape", name, message)
            continue
        check_count(name, len(values), counts, file, issues)
        check_finite(name, values, file, issues)


def _check_promise(folder: Path, scene: str, content: Any, issues: ValidationIssues) -> None:
    """Files of matches are there exactly if the config says so."""
    if content is None:
        return
    dataset = scene.split("/")[0]
    for task, names in (("stereo", "matches_stereo*.h5"), ("multiview", "matches_multiview.h5")):
        has = (folder / scene / "matches.h5").is_file() or any((folder / scene).glob(names))
        promised = uses_custom_matches(content, dataset, task)
        if has != promised:
            message = f"use_custom_matches for {task} is {promised}, files of matches: {has}"
            issues.add("error", CONFIG, f"{dataset} {task}", scene, message)


def _check_matches(
    folder: Path,
    scene: str,
    images: Sequence[str],
    counts: Mapping[str, int],
    issues: ValidationIssues,
) -> None:
    """Add the issues of the files of matches of one scene.

    Args:
        folder: of the submission.
        scene: ``<dataset>/<scene>``.
        images: that the scene has.
        counts: keypoints of each image that has some.
        issues: to add to.
    """
    present = sorted(path.name for path in (folder / scene).glob("match*"))
    _check_match_files(present, scene, issues)
    keys = {pair_key(a, b): (a, b) for a, b in itertools.combinations(sorted(images), 2)}
    for name in present:
        file = f"{scene}/{name}"
        arrays = read_arrays(folder / file, file, issues, needed=True)
        if arrays is None:
            continue
        check_names(arrays, keys, file, issues)
        for key, index in arrays.items():
            if key in keys:
                first, second = keys[key][::-1]
                _check_index(key, index, counts.get(first), counts.get(second), file, issues)


def _check_match_files(present: Sequence[str], scene: str, issues: ValidationIssues) -> None:
    """Either ``matches.h5`` alone, or files for stereo and for multiview."""
    stereo = [f"matches_stereo_{run}.h5" for run in range(STEREO_RUNS)]
    known = {"matches.h5", "matches_multiview.h5", "matches_stereo.h5", *stereo}
    for name in sorted(set(present) - known):
        issues.add("error", f"{scene}/{name}", "name", "", "no file of the benchmark has this name")
    if "matches.h5" in present:
        if len(present) > 1:
            message = "stands for both tasks; remove the other files of matches, or this one"
            issues.add("error", f"{scene}/matches.h5", "alone", "", message)
        return
    if not present:
        return
    if "matches_multiview.h5" not in present:
        issues.add("error", f"{scene}/matches_multiview.h5", "missing", "", "is missing")
    if not {"matches_stereo.h5", stereo[0]} & set(present):
        issues.add("error", f"{scene}/{stereo[0]}", "missing", "", "is missing")
    more = [name for name in stereo[1:] if name in present]
    if len(more) == 1:
        message = "there must be one run or three"
        issues.add("error", f"{scene}/{more[0]}", "runs", "", message)
    elif more:
        message = "the 2021 challenge runs stereo once and asks to leave the second and third away"
        issues.add("info", f"{scene}/{more[0]}", "runs", "", message)


def _check_index(
    key: str,
    index: NDArray[Any],
    num_a: int | None,
    num_b: int | None,
    file: str,
    issues: ValidationIssues,
) -> None:
    if index.ndim != 2 or index.shape[0] != 2:
        issues.add("error", file, "shape", key, f"has shape {index.shape}, it must be (2, match)")
        return
    if index.dtype.kind not in "iu":
        issues.add("error", file, "dtype", key, f"is of type {index.dtype}, not of integers")
        return
    for row, count, image in zip(index, (num_a, num_b), ("first", "second"), strict=True):
        if not len(row) or count is None:
            continue
        if row.min() < 0 or row.max() >= count:
            message = (
                f"has indices from {row.min()} to {row.max()} in the {image} image, "
                f"which has {count} keypoints"
            )
            issues.add("error", file, "range", key, message)
    if len(np.unique(index, axis=1).T) < index.shape[1]:
        issues.add("warning", file, "repeated", key, "has the same match twice")
