"""Submissions to IMC from stereo runs, and their validation, for ``python -m evaluation.imc``.

``--export DIR`` writes the features and matches of each extractor: all images and all pairs of the
scenes, with the settings that the tasks chose; without the multiview task stereo's matching is
taken for it too. ``--validate DIR`` looks at a folder.
"""

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from evaluation.command_line import exit_status, make_parser
from evaluation.extractors.extraction import safe_name
from evaluation.imc.dataset import Scene, list_scenes
from evaluation.imc.multiview_report import MultiviewRun
from evaluation.imc.submission_config import Labels, Metadata
from evaluation.imc.submission_export import (
    STEREO_RUNS,
    Submission,
    export_submission,
    keep_inliers,
)
from evaluation.imc.submission_validate import validate_submission
from evaluation.relative_pose.dataset import all_pairs
from evaluation.relative_pose.matching import match_label
from evaluation.relative_pose.stereo import ExtractorRun, Resources
from rekd_hloc.config import MatchConfig
from rekd_hloc.storage.validation_issues import ValidationIssue, format_issues

logger = logging.getLogger(__name__)

VALIDATE = "--validate"


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Add options of writing and validating a submission."""
    add = parser.add_argument_group("submission").add_argument
    add("--export", type=Path, metavar="DIR",
        help="write an official submission; of several methods each to DIR/METHOD")  # fmt: skip
    add("--export-runs", type=int, choices=STEREO_RUNS, default=max(STEREO_RUNS),
        help="files of stereo matches; the 2021 challenge took one; default 3")  # fmt: skip
    add("--metadata", type=Path, metavar="JSON",
        help="authors, contact_email, method_name, method_description, ...")  # fmt: skip
    add(VALIDATE, type=Path, metavar="DIR",
        help="look at a submission for ROOT, and do nothing else")  # fmt: skip


def validate_main(argv: Sequence[str]) -> int:
    """``--validate DIR --data ROOT [--scenes NAME ...]``: prints a table; 1 if there are errors."""
    parser = make_parser("evaluation.imc", "Look at a submission.")
    parser.add_argument(VALIDATE, type=Path, required=True, metavar="DIR")
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT")
    parser.add_argument("--scenes", nargs="+", default=[], metavar="NAME")
    arguments = parser.parse_args(argv)

    def work() -> int:
        issues = _validate(arguments.validate, list_scenes(arguments.data, arguments.scenes))
        sys.stdout.write(format_issues(issues) + "\n")
        return int(has_errors(issues))

    return exit_status(work)


def has_errors(issues: Sequence[ValidationIssue]) -> bool:
    """Say whether a submission would be refused."""
    return any(issue.level == "error" for issue in issues)


def export_runs(
    scenes: Sequence[Scene], runs: Sequence[ExtractorRun], multiview: Mapping[str, MultiviewRun],
    resources: Resources, arguments: argparse.Namespace,
) -> list[ValidationIssue]:  # fmt: skip
    """Write a submission of each extractor, and validate it.

    Raises:
        ValueError: rotated images, an estimator that the challenge forbids, too many keypoints, or
            metadata that cannot be read.
        FileNotFoundError: there is no metadata file.
    """
    if arguments.rotated is not None:
        raise ValueError("rotated images are no part of the benchmark; leave --rotated out")
    issues: list[ValidationIssue] = []
    for run in runs:
        name = safe_name(run.method.name)
        folder = arguments.export if len(runs) == 1 else arguments.export / name
        matches = run.chosen.match
        bags = multiview[run.method.name].chosen if run.method.name in multiview else matches
        labels = Labels(
            f"{name}-{arguments.num_keypoints}-{match_label(matches)}",
            name, f"{name}-descriptor", match_label(matches), match_label(bags),
        )  # fmt: skip
        metadata = read_metadata(arguments.metadata, run)
        parts = [
            _submission(scene, run, bags, resources, arguments.export_runs) for scene in scenes
        ]
        category = export_submission(folder, parts, labels, metadata)
        logger.info("%s: a submission of category %d in %s", run.method.name, category, folder)
        issues += _validate(folder, scenes)
    return issues


def read_metadata(path: Path | None, run: ExtractorRun) -> Metadata:
    """Read the file; what it leaves open is the extractor's name and setting.

    Raises:
        ValueError: it is no JSON object, or has other fields.
        FileNotFoundError: there is none.
    """
    given: dict[str, Any] = {
        "method_name": run.method.name,
        "method_description": f"{run.method.name}, {run.chosen.label}",
    }
    if path is None:
        return Metadata(**given)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"metadata {path} is no JSON: {error}") from error
    known = [field.name for field in fields(Metadata)]
    if not isinstance(content, dict) or set(content) - set(known):
        raise ValueError(f"metadata {path} must be an object with fields of {', '.join(known)}")
    return Metadata(**{**given, **content})


def _submission(
    scene: Scene, run: ExtractorRun, multiview: MatchConfig, resources: Resources, num_runs: int
) -> Submission:
    """All files of one scene; what stereo and earlier runs have done comes from the caches."""
    features = resources.extract(run.method, scene.key, scene.images)
    pairs = all_pairs(scene.images)
    settings = dict.fromkeys((run.chosen.match, multiview))
    matched = {config: resources.match(features, pairs, config).path for config in settings}
    stereo = [
        keep_inliers(
            features.path, matched[run.chosen.match], pairs, run.chosen.ransac, seed,
            resources.folder / "inliers", pool=resources.pool,
        )
        for seed in range(num_runs)
    ]  # fmt: skip
    return Submission(scene, features.path, stereo, matched[multiview])


def _validate(folder: Path, scenes: Sequence[Scene]) -> list[ValidationIssue]:
    return validate_submission(folder, {scene.key: list(scene.images) for scene in scenes})
