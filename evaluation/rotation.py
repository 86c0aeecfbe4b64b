"""Does a method survive rotation? ``python -m evaluation.rotation --data FOLDER --method rekd``.

Every image is turned by 0..350 degrees in steps of ten, or changed in scale, or blurred, and
compared with itself: repeatability, matching accuracy, angles and matches as curves over the
change. ``--roto360`` is the protocol of that name: ten images, 36 rotations, MMA at 3, 5, 10 px.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.baselines import METHODS, Method, load_method
from evaluation.changes import KINDS, UNITS, ChangeKind, default_values
from evaluation.photos import is_validation
from evaluation.report import Cell, Plot, Table, today, write_report
from evaluation.sweep import (
    ANGLE_TOLERANCE_DEG,
    FOUND_PX,
    MARGIN_PX,
    Sweep,
    SweepResult,
    run_sweep,
)
from rekd_hloc.images import list_images

logger = logging.getLogger(__name__)

EXTRACTED_FOR_USED = 2
"""Keypoints asked of a method for each one used: those near the border are left out."""
ROTO360_IMAGES = 10
REFERENCE_STEMS = ("1", "img1")
"""What HPatches and Oxford call the first image of a sequence."""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.rotation", description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of images")
    parser.add_argument("--held-out", action="store_true", help="only the validation tenth")
    parser.add_argument("--limit", type=int, default=0, help="at most so many images, 0 for all")
    parser.add_argument(
        "--method", action="append", required=True, help=f"{', '.join(METHODS)}, NAME+ours"
    )
    parser.add_argument(
        "--sweep", action="append", choices=KINDS, help="may be given again; default rotation"
    )
    parser.add_argument("--roto360", action="store_true", help="the Roto-360 protocol")
    parser.add_argument("--num-keypoints", type=int, default=500, help="used of each image")
    parser.add_argument("--step", type=float, default=10.0, help="degrees between two turns")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--weights", type=Path, help="folder of the peers' weights")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--num-threads", type=int, default=1, help="images at once")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        if not 0 < arguments.step <= 360:
            raise ValueError(f"step must be in (0, 360] degrees, got {arguments.step}")
        for option in ("num_keypoints", "num_threads"):
            if getattr(arguments, option) < 1:
                raise ValueError(f"{option} must be at least 1, got {getattr(arguments, option)}")
        paths = select_images(arguments)
        methods = {
            name: load_method(
                name,
                EXTRACTED_FOR_USED * arguments.num_keypoints,
                device=arguments.device,
                overrides=arguments.set,
                weights=arguments.weights,
            )
            for name in arguments.method
        }
        kinds = ["rotation"] if arguments.roto360 else arguments.sweep or ["rotation"]
        for kind in dict.fromkeys(kinds):
            out = arguments.out if len(kinds) == 1 else arguments.out / kind
            sys.stdout.write(_run(arguments, kind, paths, methods, out))
    except (ValueError, FileNotFoundError) as error:
        logger.error("%s", error)
        return 2
    except KeyboardInterrupt:
        logger.error("interrupted; the same command goes on from here")
        return 130
    return 0


def select_images(arguments: argparse.Namespace) -> list[Path]:
    """The images to change.

    Raises:
        FileNotFoundError, ValueError: a folder is not there, or nothing is left.
    """
    paths = [folder / name for folder in arguments.data for name in list_images(folder)]
    if arguments.held_out:
        paths = [path for path in paths if is_validation(path.name)]
    count = arguments.limit or None
    if arguments.roto360:
        first = [path for path in paths if path.stem in REFERENCE_STEMS]
        paths, count = first or paths, arguments.limit or ROTO360_IMAGES
    if not paths:
        raise ValueError("no image is left: the folders hold none of the validation tenth")
    return paths[:count]


def _run(
    arguments: argparse.Namespace,
    kind: ChangeKind,
    paths: Sequence[Path],
    methods: Mapping[str, Method],
    out: Path,
) -> str:
    sweep = Sweep(
        kind=kind,
        values=default_values(kind, arguments.step),
        paths=paths,
        num_keypoints=arguments.num_keypoints,
        cache_dir=arguments.out / "features",
        half_pixel=not arguments.roto360,
        num_threads=arguments.num_threads,
    )
    results = {name: run_sweep(sweep, method) for name, method in methods.items()}
    folders = ", ".join(folder.name for folder in arguments.data)
    record: dict[str, Any] = {
        "program": "rotation",
        "protocol": "roto360" if arguments.roto360 else kind,
        "description": _describe(sweep),
        "data": f"{folders}{', validation tenth' if arguments.held_out else ''}: "
        f"{len(paths)} images",
        "date": today(),
        "methods": {
            name: {
                "provenance": method.provenance,
                "weights": method.weights,
                "values": [asdict(row) for row in results[name]],
            }
            for name, method in methods.items()
        },
    }
    table = roto360_table(results) if arguments.roto360 else sweep_table(kind, results)
    return write_report(out, record, [table], make_plots(kind, results)) + "\n"


def _describe(sweep: Sweep) -> str:
    moved = sweep.kind == "rotation" and sweep.half_pixel
    return (
        f"{len(sweep.values)} values of {UNITS[sweep.kind]}; best {sweep.num_keypoints} keypoints "
        f"at least {MARGIN_PX:.0f} px off the image's border; repeatability at 3 px; MMA over "
        f"mutual nearest neighbours; angle = share within {ANGLE_TOLERANCE_DEG:.0f} degrees "
        f"of those found again within {FOUND_PX} px{'; moved by half a pixel' if moved else ''}"
    )


def sweep_table(kind: ChangeKind, results: Mapping[str, Sequence[SweepResult]]) -> Table:
    """Each figure at no rotation, blur or change of size, at its worst, and on average."""
    columns, start = ["method"], 1 if kind == "scale" else 0
    for name in ("rep", "MMA@3", "angle < 15 deg", "angle error, deg", "matches"):
        columns += [f"{name}: at {start}", f"{name}: worst", f"{name}: mean"]
    rows: list[list[Cell]] = []
    for name, found in results.items():
        origin = min(found, key=lambda r: abs(r.value - start))
        row: list[Cell] = [name]
        for read, worst in (
            (_repeatability, min),
            (_mma_3px, min),
            (_angle_accuracy, min),
            (_angle_median, max),
            (_matches, min),
        ):
            values = [value for value in map(read, found) if value is not None]
            row += [read(origin), worst(values), float(np.mean(values))] if values else [None] * 3
        rows.append(row)
    return Table(f"protocol {kind}", columns, rows)


def roto360_table(results: Mapping[str, Sequence[SweepResult]]) -> Table:
    """MMA at 3, 5 and 10 px and matches, means over all rotations."""
    columns = ["method", "MMA@3", "MMA@5", "MMA@10", "matches"]
    columns += [f"filter: {name}" for name in columns[1:]]
    rows: list[list[Cell]] = []
    for name, found in results.items():
        row: list[Cell] = [name]
        row += [100 * float(np.mean([r.mma[i] for r in found])) for i in (1, 2, 3)]
        row.append(float(np.mean([r.num_matches for r in found])))
        filtered = [r.mma_filtered for r in found if r.mma_filtered is not None]
        counts = [r.num_matches_filtered for r in found if r.num_matches_filtered is not None]
        if filtered:
            row += [100 * float(np.mean([values[i] for values in filtered])) for i in (1, 2, 3)]
            row.append(float(np.mean(counts)))
        else:
            row += [None] * 4
        rows.append(row)
    return Table("protocol roto360", columns, rows)


def make_plots(kind: ChangeKind, results: Mapping[str, Sequence[SweepResult]]) -> list[Plot]:
    """Each figure as a curve over the change."""
    plots = []
    for name, label, read in (
        ("repeatability", "repeatability, %", _repeatability),
        ("mma", "matching accuracy at 3 px, %", _mma_3px),
        ("angle-accuracy", "angles within 15 degrees, %", _angle_accuracy),
        ("angle-error", "median angle error, degrees", _angle_median),
        ("matches", "matches", _matches),
    ):
        curves = {}
        for method, found in results.items():
            values = [value for value in map(read, found) if value is not None]
            if values:
                curves[method] = values
        x = [row.value for row in next(iter(results.values()))]
        if curves:
            plots.append(Plot(f"{kind}-{name}", f"{label}: {kind}", UNITS[kind], label, x, curves))
    return plots


def _repeatability(row: SweepResult) -> float | None:
    return 100 * row.repeatability


def _mma_3px(row: SweepResult) -> float | None:
    return 100 * row.mma[1]


def _angle_accuracy(row: SweepResult) -> float | None:
    return None if row.angle_accuracy is None else 100 * row.angle_accuracy


def _angle_median(row: SweepResult) -> float | None:
    return row.angle_median_deg


def _matches(row: SweepResult) -> float | None:
    return row.num_matches


if __name__ == "__main__":
    sys.exit(main())
