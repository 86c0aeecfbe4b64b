"""Check a matches file and a pairs file of hloc's form against the features they belong to."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rekd_hloc.known_names import find_name, suggest
from rekd_hloc.storage.hdf5_groups import HDF5_ERRORS, group_attributes, read_dataset
from rekd_hloc.storage.matches import INT16_MAX, MATCH_DATASETS, stored_names
from rekd_hloc.storage.names import split_group
from rekd_hloc.storage.validate_deep import DeepCheck
from rekd_hloc.storage.validate_groups import open_to_check, walk_groups
from rekd_hloc.storage.validation_issues import ValidationIssues
from rekd_hloc.types import Pair


def check_matches(
    path: Path, num_keypoints: dict[str, int], issues: ValidationIssues, *, deep: bool = False
) -> set[Pair] | None:
    """Note what is wrong with a matches file; a deep check reads every number in it.

    Args:
        path: the file.
        num_keypoints: of each image, as
            :func:`rekd_hloc.storage.validate_features.check_features` counts.
        issues: where to note it.
        deep: read all, and name each damaged pair.

    Returns:
        The pairs in it, with true names where they are known; None if the file cannot be read.
    """
    file = open_to_check(path, issues)
    if file is None:
        return None
    true_name = {name.replace("/", "-"): name for name in num_keypoints}
    seen: set[Pair] = set()
    num_empty = 0
    all_bytes = DeepCheck(path.name, issues, is_on=deep)
    with file:
        for key, group in walk_groups(file, path, issues):
            try:
                pair = _true_pair(key, group_attributes(group), true_name)
                arrays = {
                    name: read_dataset(group, name) for name in MATCH_DATASETS if name in group
                }
            except HDF5_ERRORS as error:
                all_bytes.note_damage(key, error)
                continue
            all_bytes.read_rest(key, group, frozenset(MATCH_DATASETS))
            item = " ".join(pair)
            if pair[::-1] in seen:
                issues.add("warning", path.name, "twice", item, "is there in both directions")
            seen.add(pair)
            _check_names(path.name, pair, num_keypoints, issues)
            problem = _problem(arrays, *(num_keypoints.get(name) for name in pair))
            if problem:
                issues.add("error", path.name, problem[0], item, problem[1])
            else:
                num_empty += not (arrays["matches0"] >= 0).any()
    all_bytes.close()
    if not seen:
        issues.add("error", path.name, "none", "", "no pair of images in it")
    else:
        message = f"{len(seen)} pairs, {num_empty} of them without a match"
        issues.add("info", path.name, "summary", "", message)
    return seen


def check_pairs(
    path: Path, names: Collection[str], matched: set[Pair] | None, issues: ValidationIssues
) -> None:
    """Note what is wrong with a pairs file.

    Args:
        path: the file.
        names: of the images with features.
        matched: pairs with matches; None if that is not to be compared.
        issues: where to note it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        issues.add("error", path.name, "missing", "", f"no file {path}")
        return
    except (OSError, UnicodeDecodeError) as error:
        issues.add("error", path.name, "text", "", f"cannot be read as UTF-8 text: {error}")
        return
    known, seen = frozenset(names), dict[frozenset[str], int]()
    for number, line in enumerate(lines, start=1):
        item = f"line {number}"
        if not line.strip():
            continue
        pair = _split_line(line.strip(), known)
        if pair is None:
            message = f"must hold two names with a space between, got {line.strip()!r}"
            issues.add("error", path.name, "form", item, message)
            continue
        _check_line(path.name, item, pair, known, issues)
        a, b = (find_name(name, known) or name for name in pair)
        meant = (a, b)
        first = seen.setdefault(frozenset(pair), number)
        if first != number:
            message = f"repeats line {first}: {' '.join(pair)}"
            issues.add("warning", path.name, "repeated", item, message)
        elif matched is not None and not {pair, pair[::-1], meant, meant[::-1]} & matched:
            message = f"no matches of {' '.join(pair)}; match with this pairs file"
            issues.add("error", path.name, "unmatched", item, message)
    if not seen:
        issues.add("error", path.name, "none", "", "no pair of images in it")
    else:
        issues.add("info", path.name, "summary", "", f"{len(seen)} pairs")


def _true_pair(key: str, attrs: dict[str, Any], true_name: dict[str, str]) -> Pair:
    return stored_names(key, attrs) or split_group(key, true_name)


def _check_names(file: str, pair: Pair, known: Collection[str], issues: ValidationIssues) -> None:
    for name in pair if known else ():
        if name not in known:
            message = f"image {name!r} has no features; they are not of this scene, or renamed"
            issues.add("warning", file, "unknown", " ".join(pair), message)


def _problem(
    arrays: dict[str, NDArray[Any]], count_a: int | None, count_b: int | None
) -> tuple[str, str] | None:
    """Kind and message of what is wrong with one pair's matches."""
    for name in ("matches0", "matching_scores0"):
        if name not in arrays:
            return f"no {name}", f"has no `{name}`; match this pair again"
    partner, score = arrays["matches0"], arrays["matching_scores0"]
    if partner.ndim != 1 or partner.dtype.kind not in "iu":
        return "kind", f"`matches0` is {partner.dtype} of shape {partner.shape}, not whole numbers"
    if score.shape != partner.shape:
        return "scores", f"has {len(partner)} matches but scores of shape {score.shape}"
    if count_a is not None and len(partner) != count_a:
        message = f"`matches0` has {len(partner)} entries for {count_a} keypoints"
        return "stale", f"{message}; it is of other features, match again"
    lowest, highest = (int(partner.min()), int(partner.max())) if len(partner) else (0, -1)
    if lowest < -1:
        message = f"has the index {lowest}: 16 bits end at {INT16_MAX}"
        return "overflow", f"{message}; extract fewer keypoints, or match with rekd-hloc"
    if count_b is not None and highest >= count_b:
        message = f"has the index {highest}, the second image only {count_b} keypoints"
        return "range", f"{message}; it is of other features, match again"
    if np.issubdtype(score.dtype, np.floating) and not np.isfinite(score).all():
        return "finite", "some `matching_scores0` are not finite"
    return None


def _check_line(
    file: str, item: str, pair: Pair, known: Collection[str], issues: ValidationIssues
) -> None:
    if pair[0] == pair[1]:
        issues.add("error", file, "self", item, f"{pair[0]} is paired with itself")
    for name in pair:
        meant = find_name(name, known)
        if known and meant is None:
            message = f"image {name!r} has no features{suggest(name, known)}"
            issues.add("error", file, "unknown", item, message)
        elif meant is not None and meant != name:
            message = f"image name {name!r} is another Unicode form of the features' {ascii(meant)}"
            issues.add("warning", file, "form", item, f"{message}: hloc does not find it")
        if len(name.split()) > 1:
            message = f"image name {name!r} holds a space: rekd-hloc reads it, hloc does not"
            issues.add("warning", file, "space", item, message)


def _split_line(line: str, known: Collection[str]) -> Pair | None:
    """Return the two names on a line; where names hold spaces, the split that gives known ones."""
    cuts = [(line[: gap.start()].rstrip(), line[gap.end() :]) for gap in re.finditer(r"\s+", line)]
    for pair in cuts:
        if all(find_name(name, known) is not None for name in pair):
            return pair
    return cuts[0] if len(cuts) == 1 or (cuts and not known) else None
