"""Whole reconstructions against true poses: ``python -m evaluation.sfm --images DIR ...``.

The program runs presets (``rekd-fast-n8000`` for another budget of keypoints, as hloc's confs are
named), COLMAP's own SIFT (its defaults: 8,192) and other methods' features on the same images, over
several seeds, with the same mapper settings. ``--refine`` adds each with refined keypoints,
``--consensus`` each with the filter of neighbourhood consensus, and ``--guided`` each with guided
matching. With ``--rotated`` it also runs them on the images each rotated by an angle of its own on
a canvas, with masks. Poses are compared after a similarity on the camera centres. Without true
poses, ``--halves`` compares two models made from disjoint halves of the keypoints.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.command_line import exit_status, make_parser
from evaluation.extractors.named_extractor import REFINED
from evaluation.reconstruction.halves import HALVES, compare_models
from evaluation.reconstruction.pipelines import (
    COLMAP_SIFT,
    ImageSet,
    Pipeline,
    check_method,
)
from evaluation.reporting.report import Cell, Table, today, write_report
from evaluation.rotated_images import rotate_folder, rotate_poses
from rekd_hloc.image_listing import list_images
from rekd_hloc.sfm.alignment import read_reference
from rekd_hloc.sfm.report import describe_errors, describe_models

PROTOCOL = "SfM"
DESCRIPTION = "exhaustive pairs, incremental mapper, similarity on camera centres; mean over seeds"
HALVES_TITLE = "two halves of the keypoints"


def run_pipeline(
    pipeline: Pipeline, seeds: Sequence[int], *, refine: bool, halves: bool
) -> list[dict[str, Any]]:
    """Return one record a seed; features, and the matches of presets, are made once.

    Args:
        pipeline: to run.
        seeds: of verification and mapping.
        refine: whether keypoints are refined.
        halves: whether to compare the models of both halves of the keypoints too.
    """
    records = []
    for seed in seeds:
        start = time.perf_counter()
        models, weights = pipeline.run(seed, refine=refine)
        record = _describe(models, pipeline.image_set)
        record |= {"method": pipeline.label + REFINED * refine, "seed": seed}
        record |= {"weights": weights, "seconds": time.perf_counter() - start}
        if halves:
            record["halves"] = _compare_halves(pipeline, seed, refine)
        records.append(record)
    return records


def _describe(models: Sequence[Any], image_set: ImageSet) -> dict[str, Any]:
    record = describe_models(models, list_images(image_set.images))
    record["images"] = image_set.name
    if image_set.poses is None:
        return record | {"rotation_error_deg": None, "center_error_rel": None}
    return record | describe_errors(models, image_set.poses)


def _compare_halves(pipeline: Pipeline, seed: int, refine: bool) -> dict[str, Any]:
    """Return the figures of both models, and by how much they differ."""
    models = [pipeline.run_half(half, seed, refine=refine) for half in HALVES]
    parts = [describe_models(found, list_images(pipeline.image_set.images)) for found in models]
    first, second = (found[0] if found else None for found in models)
    return {
        **{key: float(np.mean([part[key] for part in parts])) for key in MODEL_KEYS},
        **compare_models(first, second),
    }


MODEL_KEYS = (
    "num_registered",
    "num_points3D",
    "num_observations",
    "mean_track_length",
    "mean_reprojection_error_px",
)
COLUMNS = (
    "method", "registered", "points", "observations", "track length", "reprojection px",
    "rotation median °", "centre median %", "rotation worst °", "centre worst %",
)  # fmt: skip


def make_tables(records: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Return a table for each image set: means over seeds, the least and largest in brackets.

    Where halves were compared, a second one has the means of both models and their difference.
    """
    tables = []
    for images in dict.fromkeys(record["images"] for record in records):
        chosen = [record for record in records if record["images"] == images]
        tables.append(_table(f"{images} images", chosen))
        halves = [{**record, **record["halves"]} for record in chosen if "halves" in record]
        if halves:
            tables.append(_table(f"{images} images, {HALVES_TITLE}", halves))
    return tables


def _table(title: str, records: Sequence[Mapping[str, Any]]) -> Table:
    rows: list[list[Cell]] = []
    for method in dict.fromkeys(record["method"] for record in records):
        runs = [record for record in records if record["method"] == method]
        rows.append([method, *_format_runs(runs)])
    return Table(title, COLUMNS, rows)


def _format_runs(runs: Sequence[Mapping[str, Any]]) -> list[Cell]:
    digits = (0, 0, 0, 2, 3)
    cells: list[Cell] = [
        _cell([r[key] for r in runs], d) for key, d in zip(MODEL_KEYS, digits, strict=True)
    ]
    for statistic in ("median", "max"):
        cells += [
            _cell([(r["rotation_error_deg"] or {}).get(statistic) for r in runs], 3),
            _cell([_percent((r["center_error_rel"] or {}).get(statistic)) for r in runs], 4),
        ]
    return cells


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _cell(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "none"
    low, high = min(known), max(known)
    text = f"{np.mean(known):.{digits}f}"
    return text if low == high else f"{text} ({low:.{digits}f}..{high:.{digits}f})"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = make_parser("evaluation.sfm", __doc__)
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder of images")
    add("--reference", type=Path, help="true poses: COLMAP model or IMC files; default none")
    add("--method", action="append",
        help=f"a preset, with -nN if you like, {COLMAP_SIFT}, or another extractor")  # fmt: skip
    add("--refine", action="store_true", help="each method also with refined keypoints")
    add("--consensus", action="store_true",
        help=f"each method but {COLMAP_SIFT} also with its matches filtered by consensus",
    )  # fmt: skip
    add("--guided", action="store_true",
        help=f"each method but {COLMAP_SIFT} also with guided matching",
    )  # fmt: skip
    add("--halves", action="store_true",
        help="also compare models of two halves of the keypoints; needs no true poses",
    )  # fmt: skip
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--rotated", "--turned", action="store_true", help="rotated images as well")
    add("--rotation-seed", "--turn-seed", type=int, default=0, help="of the angles")
    add("--out", type=Path, required=True)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = build_parser().parse_args(argv)
    return exit_status(lambda: _evaluate(arguments))


def _evaluate(arguments: argparse.Namespace) -> None:
    methods = arguments.method or ["rekd-fast", COLMAP_SIFT]
    for method in methods:
        check_method(method, refine=arguments.refine)  # before the long work
    image_sets = _make_image_sets(arguments)
    first_seed = arguments.seeds[0]
    pipelines = [
        Pipeline(method, image_set, arguments.out, first_seed, consensus, guided)
        for image_set in image_sets
        for method in methods
        for consensus in ((False, True) if arguments.consensus else (False,))
        for guided in ((False, True) if arguments.guided else (False,))
        if not ((consensus or guided) and method == COLMAP_SIFT)
    ]
    records = [
        record
        for pipeline in pipelines
        for refine in ((False, True) if arguments.refine else (False,))
        for record in run_pipeline(
            pipeline, arguments.seeds, refine=refine, halves=arguments.halves
        )
    ]
    seeds = ", ".join(map(str, arguments.seeds))
    weights = {record["method"]: record["weights"] or {} for record in records}
    about = {
        "program": "sfm",
        "protocol": PROTOCOL,
        "description": f"{DESCRIPTION} {seeds} (least..largest)",
        "data": _describe_data(arguments.images),
        "date": today(),
        "methods": {
            method: {"weights": " ".join(hashes.values()) or "-"}
            for method, hashes in weights.items()
        },
        "records": records,
    }
    sys.stdout.write(write_report(arguments.out, about, make_tables(records)))


def _describe_data(images: Path) -> str:
    """Return the scene's name, that of the nearest folder which is not called after its content."""
    path = images.resolve()
    while path.name == "images" or path.name.startswith("set_"):
        path = path.parent
    return f"{path.name}, {len(list_images(images))} images"


def _make_image_sets(arguments: argparse.Namespace) -> list[ImageSet]:
    poses = read_reference(arguments.reference) if arguments.reference else None
    image_sets = [ImageSet("upright", arguments.images, None, poses)]
    if arguments.rotated:
        folder = arguments.out / "rotated-images"
        angles = rotate_folder(arguments.images, folder, arguments.rotation_seed)
        rotated = rotate_poses(poses, angles) if poses is not None else None
        image_sets.append(ImageSet("rotated", folder / "images", folder / "masks", rotated))
    return image_sets


if __name__ == "__main__":
    sys.exit(main())
