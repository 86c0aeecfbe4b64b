"""Seconds for one image: ``python -m evaluation.speed --method rekd-fast --method sift``.

All methods run in the same process on the same picture, in turns, so that another job on the
machine disturbs them alike; the median of the turns and the ratio to the first method are printed.
With ``--photos DIR`` the steps of a reconstruction are timed too, up to refined keypoints.
"""

import argparse
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import torch
from tqdm import tqdm

from evaluation.command_line import exit_status, make_parser, require_positive
from evaluation.extractors.registry import NamedExtractor, load_extractor
from evaluation.reconstruction.step_times import steps_table, time_steps
from evaluation.rendering.scene import render_scene
from evaluation.reporting.report import Cell, Table, format_markdown, today, write_report
from rekd_hloc.image_listing import list_images
from rekd_hloc.images import read_color

DEFAULT_EXTRACTORS = ("rekd-fast", "rekd", "rekd-upright", "sift", "colmap-sift")


def measure(runs: dict[str, Callable[[], int]], repeats: int) -> dict[str, dict[str, float]]:
    """Time every run ``repeats`` times, in turns.

    Args:
        runs: functions that do the work and return the number of keypoints.
        repeats: turns; the first, which warms up, is not counted.

    Returns:
        For each: median and least seconds, keypoints, and seconds over the first's median.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    counts: dict[str, int] = {}
    for turn in tqdm(range(repeats + 1), unit="turn", disable=None):
        for name, run in runs.items():
            start = time.perf_counter()
            counts[name] = run()
            if turn > 0:
                seconds[name].append(time.perf_counter() - start)
    first = statistics.median(next(iter(seconds.values())))
    return {
        name: {
            "median_s": statistics.median(values),
            "least_s": min(values),
            "keypoints": counts[name],
            "ratio": statistics.median(values) / first,
        }
        for name, values in seconds.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = make_parser("evaluation.speed", __doc__)
    parser.add_argument("--method", action="append", help="may be given again")
    parser.add_argument("--image", type=Path, help="a picture; default is a view of the demo scene")
    parser.add_argument("--size", default="1024x768", help="WIDTHxHEIGHT it is resized to")
    parser.add_argument("--num-keypoints", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--photos", type=Path, metavar="DIR",
        help="also extract, match, verify and refine these with each method")  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder for results.json")
    arguments = parser.parse_args(argv)
    return exit_status(lambda: _benchmark(arguments))


def _benchmark(arguments: argparse.Namespace) -> None:
    width, height = _read_size(arguments.size)
    require_positive(arguments, "repeats")
    with tempfile.TemporaryDirectory() as scratch:
        picture = _prepare(arguments.image, (width, height), Path(scratch))
        runs = {
            name: _bind(name, arguments.num_keypoints, arguments.device, picture)
            for name in arguments.method or DEFAULT_EXTRACTORS
        }
        rows = measure({name: run for name, (_, run) in runs.items()}, arguments.repeats)
    record = _describe(rows, {name: method for name, (method, _) in runs.items()}, (width, height))
    tables = [make_table(rows)]
    if arguments.photos:
        methods = {name: method for name, (method, _) in runs.items()}
        tables.append(_time_steps(arguments.photos, methods))
    if arguments.out:
        write_report(arguments.out, record, tables, [])
    text = "\n".join(map(format_markdown, tables))
    sys.stdout.write(f"{record['description']}\n\n{text}")


def _time_steps(photos: Path, methods: dict[str, NamedExtractor]) -> Table:
    """Return the table of steps of all methods."""
    tables = []
    for name, method in methods.items():
        with tempfile.TemporaryDirectory() as scratch:
            steps = time_steps(method, photos, Path(scratch))
        tables.append(steps_table(name, len(list_images(photos)), steps))
    return replace(tables[0], rows=[row for table in tables for row in table.rows])


def _read_size(text: str) -> tuple[int, int]:
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ValueError(f"size must read WIDTHxHEIGHT, like 1024x768, got {text!r}")
    return int(sides[0]), int(sides[1])


def _prepare(source: Path | None, size: tuple[int, int], scratch: Path) -> Path:
    if source is None:
        scene = scratch / "scene"
        render_scene(scene, num_views=2, size=size)
        source = sorted((scene / "images").iterdir())[0]
    picture = scratch / "picture.png"
    rgb = cv2.resize(read_color(source), size, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(picture), rgb[..., ::-1])
    return picture


def _bind(
    name: str, num_keypoints: int, device: str, picture: Path
) -> tuple[NamedExtractor, Callable[[], int]]:
    method = load_extractor(name, num_keypoints, device=device)
    return method, lambda: len(method(picture))


def _describe(
    rows: dict[str, dict[str, float]], methods: dict[str, NamedExtractor], size: tuple[int, int]
) -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "program": "speed",
        "protocol": "speed",
        "description": (
            f"one image of {size[0]}x{size[1]} px, all methods in one process and in turns; "
            f"{torch.get_num_threads()} threads, {cpu}, peak memory of the process "
            f"{memory_mib:.0f} MiB"
        ),
        "data": "one picture",
        "date": today(),
        "methods": {name: {**methods[name].describe(), **row} for name, row in rows.items()},
    }


def make_table(rows: dict[str, dict[str, float]]) -> Table:
    """Return seconds and their ratio to the first method's."""
    columns = ["method", "median, s", "least, s", "keypoints", "ratio"]
    cells: list[list[Cell]] = [
        [
            name,
            f"{row['median_s']:.3f}",
            f"{row['least_s']:.3f}",
            int(row["keypoints"]),
            f"{row['ratio']:.2f}",
        ]
        for name, row in rows.items()
    ]
    return Table("seconds for one image", columns, cells)


if __name__ == "__main__":
    sys.exit(main())
