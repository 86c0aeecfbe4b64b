"""hloc from images to poses with its own features and ours, upright and with rotated images.

Run as ``python -m evaluation.hloc_report --images DIR --reference DIR --out DIR``; hloc must be
installed. Extraction, matching and import are hloc's own functions. Verification and mapping are
the calls that hloc makes, with a seed and the mapper on one thread, because hloc itself draws at
random; every pipeline runs with each seed. hloc's ``sift`` is taken as it is: half a pixel to the
right and down, which shifts the principal point and nothing else.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.command_line import exit_status, make_parser
from evaluation.reporting.hloc_metrics import (
    FilterMetrics,
    MatchMetrics,
    MatchSets,
    ModelMetrics,
    compare_filter,
    describe_matches,
    describe_model,
    read_match_sets,
)
from evaluation.reporting.report import Cell, Table, today, write_report
from evaluation.rotated_images import rotate_image, rotate_poses
from rekd_hloc.cli.environment import describe_environment
from rekd_hloc.image_listing import list_images
from rekd_hloc.images import read_color, write_image
from rekd_hloc.plugin import register
from rekd_hloc.sfm.alignment import Pose, read_reference

PIPELINES = {
    "sift + NN-mutual": ("sift", "NN-mutual"),
    "sift + NN-mutual + filter": ("sift", "orientation-filter"),
    "rekd + NN-mutual": ("{conf}", "NN-mutual"),
    "rekd + NN-rekd": ("{conf}", "NN-rekd"),
    "rekd + NN-rekd-ratio.95": ("{conf}", "NN-rekd-ratio.95"),
    "rekd + AdaLAM": ("{conf}", "adalam-rekd"),
}
"""hloc's confs of the features and of the matcher, by what the table calls the pipeline."""
UNFILTERED = {"sift + NN-mutual + filter": "sift + NN-mutual", "rekd + NN-rekd": "rekd + NN-mutual"}
"""Pipelines with the orientation filter, and those that have the same matches without it."""
ORIENTATIONS = ["upright", "rotated"]
COLUMNS: dict[str, tuple[str, str, str]] = {
    "registered": ("model", "registered", ".1f"),
    "points": ("model", "num_points", ".0f"),
    "observations": ("model", "num_observations", ".0f"),
    "reprojection px": ("model", "reprojection_px", ".3f"),
    "noise px": ("model", "noise_px", ".2f"),
    "rotation deg": ("model", "rotation_deg", ".2f"),
    "centre %": ("model", "center_rel", ".2%"),
    "matches": ("matches", "num_matches", ".0f"),
    "inliers": ("matches", "num_inliers", ".0f"),
    "inlier ratio": ("matches", "inlier_ratio", ".2f"),
    "kept inliers": ("filter", "kept_inliers", ".1%"),
    "removed wrong": ("filter", "removed_wrong", ".1%"),
    "match s": ("", "match_seconds", ".1f"),
    "verify s": ("", "verify_seconds", ".1f"),
    "map s": ("", "map_seconds", ".1f"),
}
"""Heading, and where the value is in a result and how it is written."""
VERIFICATION = {"max_num_trials": 20_000, "min_inlier_ratio": 0.1}
"""RANSAC options that hloc passes to COLMAP."""


@dataclass(frozen=True)
class Task:
    """What a pipeline works on, the same for each seed."""

    pipeline: str
    orientation: str
    """Of the images: upright or rotated."""
    images: Path
    reference: Mapping[str, Pose]
    pairs: Path
    features: Path
    matches: Path
    match_seconds: float


@dataclass(frozen=True)
class Result:
    """Metrics of one pipeline with one seed."""

    pipeline: str
    orientation: str
    seed: int
    match_seconds: float
    verify_seconds: float
    map_seconds: float
    matches: MatchMetrics
    filter: FilterMetrics | None
    model: ModelMetrics


def rotate_by_quarters(images: Path, out: Path, seed: int) -> dict[str, float]:
    """Write each image as PNG, rotated by 0, 90, 180 or 270 degrees: hloc knows no masks.

    Returns:
        The angle in degrees of each new name.
    """
    names = list_images(images)
    quarters = np.random.default_rng(seed).integers(4, size=len(names)).tolist()
    angles: dict[str, float] = {}
    for name, quarter in zip(names, quarters, strict=True):
        new_name = Path(name).with_suffix(".png").as_posix()
        angles[new_name] = 90.0 * quarter
        write_image(out / new_name, rotate_image(read_color(images / name), angles[new_name])[0])
    return angles


def extract(conf: str, images: Path, out: Path) -> Path:
    """Extract features by hloc, anew: hloc would keep those of other weights."""
    from hloc import extract_features

    features: Path = extract_features.main(
        extract_features.confs[conf], images, out, overwrite=True
    )
    return features


def match(
    pipeline: str, orientation: str, images: Path, reference: Mapping[str, Pose], features: Path,
    out: Path,
) -> Task:  # fmt: skip
    """Match all pairs by hloc, anew."""
    from hloc import match_features, pairs_from_exhaustive
    from hloc.utils.io import list_h5_names

    pairs = out / "pairs.txt"
    pairs_from_exhaustive.main(pairs, image_list=sorted(list_h5_names(features)))
    start = time.perf_counter()
    matcher = match_features.confs[PIPELINES[pipeline][1]]
    matches = match_features.main(matcher, pairs, features.stem, out, overwrite=True)
    seconds = time.perf_counter() - start
    return Task(pipeline, orientation, images, reference, pairs, features, matches, seconds)


def reconstruct(
    task: Task, seed: int, out: Path, unfiltered: MatchSets | None
) -> tuple[Result, MatchSets]:
    """Import, verify and map as hloc does, but seeded."""
    import pycolmap
    from hloc import reconstruction, triangulation

    out.mkdir(parents=True, exist_ok=True)
    path = out / "database.db"
    reconstruction.create_empty_db(path)
    reconstruction.import_images(task.images, path, pycolmap.CameraMode.AUTO)
    ids = reconstruction.get_image_ids(path)
    with pycolmap.Database.open(path) as database:
        triangulation.import_features(ids, database, task.features)
        triangulation.import_matches(ids, database, task.pairs, task.matches)
    start = time.perf_counter()
    with triangulation.OutputCapture(False):
        options: Any = {"ransac": {**VERIFICATION, "random_seed": seed}}
        pycolmap.verify_matches(path, task.pairs, options=options)
    verified = time.perf_counter()
    options = {"random_seed": seed, "num_threads": 1}
    model = reconstruction.run_reconstruction(out, path, task.images, options=options)
    mapped = time.perf_counter()
    with pycolmap.Database.open(path) as database:
        sets = read_match_sets(database)
    result = Result(
        task.pipeline, task.orientation, seed,
        match_seconds=task.match_seconds, verify_seconds=verified - start,
        map_seconds=mapped - verified, matches=describe_matches(sets),
        filter=compare_filter(unfiltered, sets) if unfiltered is not None else None,
        model=describe_model(model, task.reference),
    )  # fmt: skip
    return result, sets


def evaluate(
    orientation: str, images: Path, reference: Mapping[str, Pose], out: Path, *,
    pipelines: Sequence[str], seeds: Sequence[int], conf: str,
) -> list[Result]:  # fmt: skip
    """Run all pipelines with all seeds on one folder of images."""
    results: list[Result] = []
    sets: dict[tuple[str, int], MatchSets] = {}
    features: dict[str, Path] = {}
    for pipeline in pipelines:
        of_features = PIPELINES[pipeline][0].format(conf=conf)
        if of_features not in features:
            features[of_features] = extract(of_features, images, out)
        task = match(pipeline, orientation, images, reference, features[of_features], out)
        for seed in seeds:
            folder = out / pipeline.replace(" ", "") / str(seed)
            unfiltered = sets.get((UNFILTERED.get(pipeline, ""), seed))
            result, sets[pipeline, seed] = reconstruct(task, seed, folder, unfiltered)
            results.append(result)
    return results


def make_tables(results: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Return a table for upright and one for rotated images: mean and deviation over the seeds."""
    tables = []
    for orientation in dict.fromkeys(result["orientation"] for result in results):
        chosen = [result for result in results if result["orientation"] == orientation]
        rows: list[list[Cell]] = []
        for pipeline in dict.fromkeys(result["pipeline"] for result in chosen):
            runs = [result for result in chosen if result["pipeline"] == pipeline]
            rows.append([pipeline, *(_cell(runs, *source) for source in COLUMNS.values())])
        tables.append(Table(f"{orientation} images", ["features + matcher", *COLUMNS], rows))
    return tables


def _cell(runs: Sequence[Mapping[str, Any]], part: str, name: str, form: str) -> str:
    """Return mean, and deviation where the seeds differ; runs without the value do not count."""
    parts = [(run[part] or {}) if part else run for run in runs]
    values = [owner[name] for owner in parts if owner.get(name) is not None]
    if not values:
        return "-"
    text = format(float(np.mean(values)), form)
    if np.std(values) > 0:
        text += f" ± {format(float(np.std(values)), form)}"
    return text if len(values) == len(runs) else f"{text} ({len(values)} of {len(runs)})"


def describe_run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the values were made with."""
    environment = describe_environment()
    seeds = ", ".join(map(str, arguments.seeds))
    return {
        "program": "hloc_report",
        "protocol": "hloc",
        "description": "exhaustive pairs, seeded verification and mapping; mean ± standard "
        f"deviation over seeds {seeds}",
        "data": f"{arguments.images.resolve().name}, {len(list_images(arguments.images))} images",
        "date": today(),
        "methods": {
            name: {"weights": entry["hash"]} for name, entry in environment["weights"].items()
        },
        "parameters": {
            "conf": arguments.conf,
            "rotation_seed": arguments.rotation_seed,
            "seeds": arguments.seeds,
            "device": environment["device_name"],
            "versions": environment["versions"],
        },
    }


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser("evaluation.hloc_report", __doc__)
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder of images")
    add("--reference", type=Path, required=True, help="model or IMC calibrations")
    add("--out", type=Path, required=True, help="folder for all files")
    add("--conf", default="rekd", help="hloc conf of our features")
    add("--pipelines", "--rows", nargs="+", default=list(PIPELINES), choices=list(PIPELINES))
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--orientations", nargs="+", default=ORIENTATIONS, choices=ORIENTATIONS)
    add("--rotation-seed", "--turn-seed", type=int, default=0, help="of the quarter rotations")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Write OUT/results.json, OUT/table.md and OUT/report.html; return the exit status."""
    arguments = parse_arguments(argv)
    return exit_status(lambda: _compare(arguments))


def _compare(arguments: argparse.Namespace) -> None:
    register()
    upright = read_reference(arguments.reference)
    results: list[dict[str, Any]] = []
    text = ""
    for orientation in arguments.orientations:
        out, images, reference = arguments.out / orientation, arguments.images, upright
        out.mkdir(parents=True, exist_ok=True)
        if orientation == "rotated":
            images = out / "images"
            angles = rotate_by_quarters(arguments.images, images, arguments.rotation_seed)
            reference = rotate_poses(upright, angles)
        done = evaluate(
            orientation, images, reference, out,
            pipelines=arguments.pipelines, seeds=arguments.seeds, conf=arguments.conf,
        )  # fmt: skip
        results += [asdict(result) for result in done]
        record = {**describe_run(arguments), "results": results}
        text = write_report(arguments.out, record, make_tables(results))
    sys.stdout.write(text)


if __name__ == "__main__":
    sys.exit(main())
