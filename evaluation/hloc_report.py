"""hloc from photos to poses with its own features and ours, upright and with turned photos.

Run as ``python -m evaluation.hloc_report --images DIR --reference DIR --out DIR``; hloc must be
installed. Extraction, matching and import are hloc's own functions. Verification and mapping are
the calls that hloc makes, with a seed and the mapper on one thread, because hloc itself draws at
random; every row runs with each seed. hloc's ``sift`` is taken as it is: half a pixel to the right
and down, which shifts the principal point and nothing else.
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
    FilterFigures,
    MatchFigures,
    MatchSets,
    ModelFigures,
    compare_filter,
    describe_matches,
    describe_model,
    read_match_sets,
)
from evaluation.reporting.hloc_table import format_table
from evaluation.rotated_images import rotate_image, rotate_poses
from rekd_hloc.cli.environment import describe_environment
from rekd_hloc.files import write_json, write_text
from rekd_hloc.images import list_images, read_color
from rekd_hloc.picture_file import write_image
from rekd_hloc.plugin import register
from rekd_hloc.sfm.alignment import Pose, read_reference

ROWS = {
    "sift + NN-mutual": ("sift", "NN-mutual"),
    "sift + NN-mutual + filter": ("sift", "orientation-filter"),
    "rekd + NN-mutual": ("{conf}", "NN-mutual"),
    "rekd + NN-rekd": ("{conf}", "NN-rekd"),
    "rekd + NN-rekd-ratio.95": ("{conf}", "NN-rekd-ratio.95"),
    "rekd + AdaLAM": ("{conf}", "adalam-rekd"),
}
"""Name of a row, and hloc's confs of its features and its matcher."""
UNFILTERED = {
    "sift + NN-mutual + filter": "sift + NN-mutual",
    "rekd + NN-rekd": "rekd + NN-mutual",
}
"""Rows with the orientation filter, and the row that has the same matches without it."""
VERIFICATION = {"max_num_trials": 20_000, "min_inlier_ratio": 0.1}
"""RANSAC options that hloc passes to COLMAP."""


@dataclass(frozen=True)
class Task:
    """What a row works on, the same for each seed."""

    row: str
    photos: str
    """upright or turned"""
    images: Path
    reference: Mapping[str, Pose]
    pairs: Path
    features: Path
    matches: Path
    match_seconds: float


@dataclass(frozen=True)
class Result:
    """Figures of one row with one seed."""

    row: str
    photos: str
    seed: int
    match_seconds: float
    verify_seconds: float
    map_seconds: float
    matches: MatchFigures
    filter: FilterFigures | None
    model: ModelFigures


def rotate_by_quarters(images: Path, out: Path, seed: int) -> dict[str, float]:
    """Write each photo as PNG, turned by 0, 90, 180 or 270 degrees: hloc knows no masks.

    Returns:
        The angle in degrees of each new name.
    """
    names = list_images(images)
    turns = np.random.default_rng(seed).integers(4, size=len(names)).tolist()
    angles: dict[str, float] = {}
    for name, turn in zip(names, turns, strict=True):
        new_name = Path(name).with_suffix(".png").as_posix()
        angles[new_name] = 90.0 * turn
        write_image(out / new_name, rotate_image(read_color(images / name), angles[new_name])[0])
    return angles


def extract(conf: str, images: Path, out: Path) -> Path:
    """Features by hloc, anew: hloc would keep those of other weights."""
    from hloc import extract_features

    features: Path = extract_features.main(
        extract_features.confs[conf], images, out, overwrite=True
    )
    return features


def match(
    row: str, photos: str, images: Path, reference: Mapping[str, Pose], features: Path, out: Path
) -> Task:
    """Matches of all pairs by hloc, anew."""
    from hloc import match_features, pairs_from_exhaustive
    from hloc.utils.io import list_h5_names

    pairs = out / "pairs.txt"
    pairs_from_exhaustive.main(pairs, image_list=sorted(list_h5_names(features)))
    start = time.perf_counter()
    matcher = match_features.confs[ROWS[row][1]]
    matches = match_features.main(matcher, pairs, features.stem, out, overwrite=True)
    seconds = time.perf_counter() - start
    return Task(row, photos, images, reference, pairs, features, matches, seconds)


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
        ransac = {**VERIFICATION, "random_seed": seed}
        pycolmap.verify_matches(path, task.pairs, options={"ransac": ransac})
    verified = time.perf_counter()
    options = {"random_seed": seed, "num_threads": 1}
    model = reconstruction.run_reconstruction(out, path, task.images, options=options)
    mapped = time.perf_counter()
    with pycolmap.Database.open(path) as database:
        sets = read_match_sets(database)
    result = Result(
        row=task.row,
        photos=task.photos,
        seed=seed,
        match_seconds=task.match_seconds,
        verify_seconds=verified - start,
        map_seconds=mapped - verified,
        matches=describe_matches(sets),
        filter=compare_filter(unfiltered, sets) if unfiltered is not None else None,
        model=describe_model(model, task.reference),
    )
    return result, sets


def evaluate(
    photos: str,
    images: Path,
    reference: Mapping[str, Pose],
    out: Path,
    *,
    rows: Sequence[str],
    seeds: Sequence[int],
    conf: str,
) -> list[Result]:
    """All rows with all seeds on one folder of photos."""
    results: list[Result] = []
    sets: dict[tuple[str, int], MatchSets] = {}
    features: dict[str, Path] = {}
    for row in rows:
        of_features = ROWS[row][0].format(conf=conf)
        if of_features not in features:
            features[of_features] = extract(of_features, images, out)
        task = match(row, photos, images, reference, features[of_features], out)
        for seed in seeds:
            folder = out / row.replace(" ", "") / str(seed)
            unfiltered = sets.get((UNFILTERED.get(row, ""), seed))
            result, sets[row, seed] = reconstruct(task, seed, folder, unfiltered)
            results.append(result)
    return results


def describe_run(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the figures were made with."""
    environment = describe_environment()
    return {
        "protocol": "hloc, exhaustive pairs, seeded verification and mapping",
        "images": arguments.images.resolve().name,
        "turn_seed": arguments.turn_seed,
        "conf": arguments.conf,
        "device": environment["device_name"],
        "versions": environment["versions"],
        "weights": {name: entry["hash"] for name, entry in environment["weights"].items()},
    }


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("evaluation.hloc_report", __doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of photos")
    parser.add_argument("--reference", type=Path, required=True, help="model or IMC calibrations")
    parser.add_argument("--out", type=Path, required=True, help="folder for all files")
    parser.add_argument("--conf", default="rekd", help="hloc conf of our features")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--photos", nargs="+", default=["upright", "turned"])
    parser.add_argument("--turn-seed", type=int, default=0, help="of the quarter turns")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Write OUT/results.json and OUT/table.md."""
    arguments = parse_arguments(argv)
    return exit_status(lambda: _compare(arguments))


def _compare(arguments: argparse.Namespace) -> None:
    register()
    upright = read_reference(arguments.reference)
    results: list[Result] = []
    for photos in arguments.photos:
        out, images, reference = arguments.out / photos, arguments.images, upright
        out.mkdir(parents=True, exist_ok=True)
        if photos == "turned":
            images = out / "images"
            angles = rotate_by_quarters(arguments.images, images, arguments.turn_seed)
            reference = rotate_poses(upright, angles)
        results += evaluate(
            photos,
            images,
            reference,
            out,
            rows=arguments.rows,
            seeds=arguments.seeds,
            conf=arguments.conf,
        )
        record = {**describe_run(arguments), "results": [asdict(result) for result in results]}
        write_json(arguments.out / "results.json", record)
        write_text(arguments.out / "table.md", format_table(record))
    sys.stdout.write((arguments.out / "table.md").read_text())


if __name__ == "__main__":
    sys.exit(main())
