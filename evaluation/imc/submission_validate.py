"""Looks whether a folder is an IMC submission that the organisers' own program would accept.

It holds ``config.json`` and, for each ``<dataset>/<scene>``, HDF5 files with one dataset an image
(``keypoints``, ``descriptors``, ``scores``, ``scales``, ``angles``) or a pair (``matches*``).
Everything is looked at, not the first image alone; what cannot be read is a finding.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.imc.dataset import DATASETS
from evaluation.imc.submission_arrays import check_count, check_finite, check_names, read_arrays
from evaluation.imc.submission_config import CATEGORIES, CONFIG, check_config, uses_custom_matches
from evaluation.imc.submission_matches import check_matches
from rekd_hloc.storage.validation_issues import Level, ValidationIssue, ValidationIssues

PER_IMAGE = ("scores", "scales", "angles")
MIN_CHANNELS, MAX_CHANNELS = 64, 2048
MAX_BYTES_TO_MATCH = 512
"""Largest descriptor that the organisers match themselves; larger ones need files of matches."""
MAX_BYTES = 8192


def validate_submission(folder: Path, scenes: Mapping[str, Sequence[str]]) -> list[ValidationIssue]:
    """What is wrong with a submission.

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
    found = ValidationIssues()
    datasets = sorted({scene.split("/")[0] for scene in scenes})
    content = _check_json(folder / CONFIG, datasets, found)
    largest, forms = 0, set()
    for scene, images in scenes.items():
        if not (folder / scene).is_dir():
            found.add("error", scene, "missing", "", "the submission lacks this scene")
            continue
        counts = _check_keypoints(folder, scene, images, found)
        largest = max([largest, *counts.values()])
        forms |= _check_descriptors(folder, scene, counts, found)
        for kind in PER_IMAGE:
            _check_per_image(folder, f"{scene}/{kind}.h5", counts, found)
        check_matches(folder, scene, images, counts, found)
        _check_promise(folder, scene, content, found)
    _check_scenes(folder, scenes, found)
    if len(forms) > 1:
        message = f"descriptors differ in channels or type: {sorted(forms)}"
        found.add("error", "descriptors.h5", "forms", "", message)
    _check_category(content, largest, found)
    return found.fold()


def _check_json(path: Path, datasets: Sequence[str], found: ValidationIssues) -> Any:
    """The config's content if it has no flaw, else None."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        found.add("error", CONFIG, "read", "", f"cannot be read: {error}")
        return None
    flaws = check_config(content, datasets)
    for flaw in flaws:
        found.add("error", CONFIG, flaw, "", flaw)
    return None if flaws else content


def _check_category(content: Any, largest: int, found: ValidationIssues) -> None:
    limit = CATEGORIES[-1]
    if content is not None and content[0]["config_common"]["num_keypoints"] != -1:
        limit = content[0]["config_common"]["num_keypoints"]
    level: Level = "error" if largest > limit else "info"
    found.add(
        level, "keypoints.h5", "category", "",
        f"the largest image has {largest} keypoints, the category is {limit}",
    )  # fmt: skip


def _check_scenes(
    folder: Path, scenes: Mapping[str, Sequence[str]], found: ValidationIssues
) -> None:
    for path in sorted(folder.glob("*/*/")):
        name = path.relative_to(folder).as_posix()
        if name not in scenes and name.split("/")[0] in DATASETS:
            found.add("warning", name, "extra", "", "no such scene in the data; not looked at")


def _check_keypoints(
    folder: Path, scene: str, images: Sequence[str], found: ValidationIssues
) -> dict[str, int]:
    """The number of keypoints of each image whose keypoints can be used."""
    file = f"{scene}/keypoints.h5"
    arrays = read_arrays(folder / file, file, found, needed=True)
    if arrays is None:
        return {}
    check_names(arrays, images, file, found)
    counts = {}
    for name, xy in arrays.items():
        if xy.ndim != 2 or xy.shape[1] != 2:
            message = f"has shape {xy.shape}, it must be (keypoint, 2)"
            found.add("error", file, "shape", name, message)
            continue
        counts[name] = len(xy)
        if xy.dtype.kind != "f":
            found.add("error", file, "dtype", name, f"is of type {xy.dtype}, not floating point")
        elif not np.isfinite(xy).all():
            found.add("error", file, "finite", name, "has coordinates that are not finite")
        if not len(xy):
            found.add("warning", file, "empty", name, "has no keypoint")
    return counts


def _check_descriptors(
    folder: Path, scene: str, counts: Mapping[str, int], found: ValidationIssues
) -> set[tuple[int, str]]:
    """The (channels, type) that occur."""
    file = f"{scene}/descriptors.h5"
    has_matches = any((folder / scene).glob("matches*.h5"))
    arrays = read_arrays(folder / file, file, found, needed=not has_matches)
    if arrays is None:
        return set()
    check_names(arrays, counts, file, found)
    forms = set()
    for name, rows in arrays.items():
        if rows.ndim != 2 or not MIN_CHANNELS <= rows.shape[1] <= MAX_CHANNELS:
            message = (
                f"has shape {rows.shape}, it must be (keypoint, channel) with "
                f"{MIN_CHANNELS} to {MAX_CHANNELS} channels"
            )
            found.add("error", file, "shape", name, message)
            continue
        forms.add((rows.shape[1], str(rows.dtype)))
        check_count(name, len(rows), counts, file, found)
        check_finite(name, rows, file, found)
        num_bytes = rows.shape[1] * rows.dtype.itemsize
        limit = MAX_BYTES if has_matches else MAX_BYTES_TO_MATCH
        if num_bytes > limit:
            message = f"has descriptors of {num_bytes} bytes, {limit} are allowed"
            more = "" if has_matches else " without files of matches"
            found.add("error", file, "bytes", name, message + more)
    return forms


def _check_per_image(
    folder: Path, file: str, counts: Mapping[str, int], found: ValidationIssues
) -> None:
    arrays = read_arrays(folder / file, file, found, needed=False)
    if arrays is None:
        return
    check_names(arrays, counts, file, found)
    for name, values in arrays.items():
        if values.ndim != 1 or values.dtype.kind != "f":
            message = f"is {values.dtype} of shape {values.shape}, not floats of (keypoint,)"
            found.add("error", file, "shape", name, message)
            continue
        check_count(name, len(values), counts, file, found)
        check_finite(name, values, file, found)


def _check_promise(folder: Path, scene: str, content: Any, found: ValidationIssues) -> None:
    """Files of matches are there exactly if the config says so."""
    if content is None:
        return
    dataset = scene.split("/")[0]
    for task, names in (("stereo", "matches_stereo*.h5"), ("multiview", "matches_multiview.h5")):
        has = (folder / scene / "matches.h5").is_file() or any((folder / scene).glob(names))
        promised = uses_custom_matches(content, dataset, task)
        if has != promised:
            message = f"use_custom_matches for {task} is {promised}, files of matches: {has}"
            found.add("error", CONFIG, f"{dataset} {task}", scene, message)
