"""Camera poses from image pairs and small bags, by the rules of IMC 2020/2021.

    python -m evaluation.imc --data ROOT --scenes reichstag sacre_coeur --method rekd --out OUT

Stereo: matches, a robust estimator, the pose, its error against the official calibration. Multiview
(``--task multiview``, or ``stereo,multiview`` for both): COLMAP models of bags of images. Writes
table.md, results.json, pairs.csv, curves and report.html to OUT, those of multiview to
OUT/multiview. Interrupt it and start it again: what is finished is in
OUT/cache, and used again by other runs with the same OUT. ``--export DIR`` writes an official
submission, ``--validate DIR --data ROOT`` looks at one.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import evaluation.oriented_ransac.oriented_estimators  # noqa: F401  (registers its estimators)
from evaluation.command_line import exit_status, make_parser
from evaluation.extractors.options import load_extractors
from evaluation.extractors.registry import NamedExtractor
from evaluation.imc.bags import BAG_SIZES, BagSet
from evaluation.imc.dataset import COVISIBILITY, Scene, list_scenes
from evaluation.imc.multiview import require_both_halves, sweep_multiview
from evaluation.imc.multiview_report import (
    MultiviewRun,
    describe_bags,
    describe_multiview,
    write_multiview,
)
from evaluation.imc.rotation import rotate_scene
from evaluation.imc.submission import (
    VALIDATE,
    add_export_options,
    export_runs,
    has_errors,
    validate_main,
)
from evaluation.imc.submission_config import TASKS
from evaluation.relative_pose.dataset import PairSet
from evaluation.relative_pose.estimators import require
from evaluation.relative_pose.options import (
    add_common_options,
    add_stereo_options,
    describe_stereo,
    open_resources,
    plain_parameters,
    read_plan,
    write_stereo,
)
from evaluation.relative_pose.stereo import ExtractorRun, StereoPlan, run_stereo
from rekd_hloc.storage.validation_issues import ValidationIssue, format_issues

logger = logging.getLogger(__name__)

STEREO, MULTIVIEW = TASKS
PROTOCOL = "imc2021-stereo"
POSES_SOURCE = "poses_source.csv"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = make_parser("evaluation.imc", __doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="ROOT",
        help="<dataset>/<scene>/set_100/{images,calibration,new-vis-pairs,sub_set}")  # fmt: skip
    add("--scenes", nargs="+", default=[], metavar="NAME", help="default: all that are there")
    add("--task", default="stereo", help="stereo, multiview, or stereo,multiview; default stereo")
    add_common_options(parser)
    add("--covisibility", type=float, default=COVISIBILITY, metavar="C",
        help=f"pairs above it count; default {COVISIBILITY:g}")  # fmt: skip
    add("--rotated", "--turned", type=int, metavar="SEED",
        help="rotate every second image by any angle")  # fmt: skip
    add("--bag-sizes", type=int, nargs="+", default=list(BAG_SIZES), help="of multiview")
    add("--num-bags", type=int, metavar="N", help="of each size; default: the official lists")
    add_stereo_options(parser)
    add_export_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if any(word.split("=")[0] == VALIDATE for word in argv):
        return validate_main(argv)
    arguments = build_parser().parse_args(argv)

    def work() -> int:
        text, issues = run(arguments)
        sys.stdout.write(text)
        if issues:
            sys.stdout.write("\n" + format_issues(issues) + "\n")
        return int(has_errors(issues))

    return exit_status(work)


def run(arguments: argparse.Namespace) -> tuple[str, list[ValidationIssue]]:
    """Do everything that the command line asks for.

    Returns:
        The text of table.md, and the validation issues of exported submissions.

    Raises:
        ValueError: an option or a file is wrong.
        FileNotFoundError: data or weights are not there.
        ImportError: the estimator's package is missing.
    """
    tasks = _read_tasks(arguments)
    plan = read_plan(arguments)
    scenes, masks = _read_scenes(arguments)
    sets = _read_pairs(scenes, masks, arguments) if STEREO in tasks else []
    bags = _draw_bags(scenes, masks, arguments) if MULTIVIEW in tasks else []
    require_both_halves(bags, plan)
    methods = load_extractors(arguments, arguments.num_keypoints, matches_pairs=True)
    runs: list[ExtractorRun] = []
    multiview: dict[str, MultiviewRun] = {}
    with open_resources(arguments) as resources:
        for method in methods:
            if sets:
                runs.append(run_stereo(sets, method, plan, resources))
            if bags:
                multiview[method.name] = sweep_multiview(bags, method, plan, resources)
        issues = (
            export_runs(scenes, runs, multiview, resources, arguments) if arguments.export else []
        )
    texts = []
    if runs:
        texts.append(_write_stereo(arguments, plan, scenes, sets, runs))
    if multiview:
        texts.append(_write_multiview(arguments, plan, bags, methods, multiview))
    return "\n".join(texts), issues


def _read_tasks(arguments: argparse.Namespace) -> list[str]:
    tasks: list[str] = arguments.task.split(",")
    if unknown := [task for task in tasks if task not in TASKS]:
        raise ValueError(f"no task {unknown[0]!r}; tasks are {', '.join(TASKS)}")
    if arguments.export and STEREO not in tasks:
        raise ValueError("a submission needs the stereo task; add it to --task, or leave --export")
    if arguments.refine and (arguments.export or MULTIVIEW in tasks):
        raise ValueError(
            "--refine gives each pair positions of its own, which a model or submission cannot "
            "have; leave --export and multiview out, or measure models by evaluation.sfm --refine"
        )
    return tasks


def _read_scenes(arguments: argparse.Namespace) -> tuple[list[Scene], dict[str, dict[str, Path]]]:
    """Return the scenes, rotated if asked for, and the masks of each."""
    scenes = list_scenes(arguments.data, arguments.scenes)
    if arguments.rotated is None:
        return scenes, {scene.key: {} for scene in scenes}
    rotated: list[Scene] = []
    masks: dict[str, dict[str, Path]] = {}
    for scene in scenes:
        folder = (
            arguments.out / "cache" / f"rotated-{arguments.rotated}" / scene.dataset / scene.name
        )
        new_scene, masks[scene.key] = rotate_scene(scene, arguments.rotated, folder)
        rotated.append(new_scene)
    return rotated, masks


def _read_pairs(
    scenes: Sequence[Scene], masks: dict[str, dict[str, Path]], arguments: argparse.Namespace
) -> list[PairSet]:
    require(arguments.estimator)
    return [
        scene.pair_set(arguments.covisibility, masks[scene.key]).limit(arguments.num_pairs)
        for scene in scenes
    ]


def _draw_bags(
    scenes: Sequence[Scene], masks: dict[str, dict[str, Path]], arguments: argparse.Namespace
) -> list[BagSet]:
    """Of the scenes that have bags."""
    sets = [
        BagSet.from_scene(scene, arguments.bag_sizes, arguments.num_bags, masks[scene.key])
        for scene in scenes
    ]
    if not any(of_scene.bags for of_scene in sets):
        sizes = " ".join(map(str, arguments.bag_sizes))
        raise ValueError(f"no scene has bags of {sizes} images; give smaller --bag-sizes")
    return [of_scene for of_scene in sets if of_scene.bags]


def _write_stereo(
    arguments: argparse.Namespace,
    plan: StereoPlan,
    scenes: Sequence[Scene],
    sets: Sequence[PairSet],
    runs: Sequence[ExtractorRun],
) -> str:
    data = [
        _describe(scene, f"{len(pairs.pairs)} pairs")
        for scene, pairs in zip(scenes, sets, strict=True)
    ]
    record = {
        **_record(arguments, data),
        "protocol": PROTOCOL,
        "description": describe_stereo(plan, arguments.num_keypoints),
    }
    return write_stereo(arguments.out, runs, plan, record)


def _write_multiview(
    arguments: argparse.Namespace,
    plan: StereoPlan,
    bags: Sequence[BagSet],
    methods: Sequence[NamedExtractor],
    runs: dict[str, MultiviewRun],
) -> str:
    data = [_describe(of_scene.scene, describe_bags(of_scene)) for of_scene in bags]
    record = {
        **_record(arguments, data),
        "description": describe_multiview(plan, arguments.num_keypoints),
    }
    return write_multiview(arguments.out / MULTIVIEW, methods, runs, plan, record)


def _record(arguments: argparse.Namespace, data: Sequence[str]) -> dict[str, Any]:
    """What the records of both tasks have in common; ``data`` is a description of each scene."""
    described = "; ".join(data) + _describe_rotation(arguments.rotated)
    return {"program": "imc", "data": described, "parameters": plain_parameters(arguments)}


def _describe(scene: Scene, what: str) -> str:
    text = f"{scene.key}, {len(scene.images)} images, {what}"
    folder = next(iter(scene.images.values())).parent.parent
    if (folder / POSES_SOURCE).is_file():
        rows = (folder / POSES_SOURCE).read_text(encoding="utf-8").splitlines()[1:]
        other = sum("original" not in row for row in rows)
        text += f" ({other} calibrations are recovered, not the official files)"
    return text


def _describe_rotation(seed: int | None) -> str:
    return "" if seed is None else f"; every second image rotated by any angle (seed {seed})"


if __name__ == "__main__":
    sys.exit(main())
