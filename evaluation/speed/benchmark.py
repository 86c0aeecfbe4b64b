"""Seconds for one image: ``python -m evaluation.speed --method rekd-fast --method colmap-sift``.

All methods run in the same process on the same picture, in turns, so that another job on the
machine disturbs them alike. The table has the median of the turns, the seconds of all cores, and
the ratio to COLMAP's SIFT where it is among the methods, else to the first.

--stages    where the time of this project's methods goes, beside the machine's best convolution
--busy      the same with so many processes beside that keep a core each busy, e.g. 0,1,3
--batches   images a second with so many of one size at once, e.g. 1,8; a GPU's default
--launches  kernels that a GPU would start for a photo, alone and of eight, counted on a CPU
--folder    photos a second in a folder, beside COLMAP's own extraction on all cores
--photos    the steps of a reconstruction, up to refined keypoints
"""

import argparse
import platform
import resource
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import torch

from evaluation.command_line import exit_status, make_parser, require_positive
from evaluation.extractors.registry import NamedExtractor, load_extractor
from evaluation.reconstruction.step_times import steps_table, time_steps
from evaluation.rendering.scene import render_scene
from evaluation.reporting.report import Cell, Table, format_markdown, today, write_report
from evaluation.speed.batches import batches_table, time_batches
from evaluation.speed.folder import folder_table, time_folder
from evaluation.speed.launches import count_launches, launches_table
from evaluation.speed.neighbours import busy_neighbours
from evaluation.speed.roof import measure_roof
from evaluation.speed.stages import stages_table, time_stages
from evaluation.speed.turns import Timing, measure
from rekd_hloc.config import (
    PRESETS,
    ExtractConfig,
    get_preset,
    load_config,
    with_max_keypoints,
)
from rekd_hloc.devices import choose_device
from rekd_hloc.features.extractor import GPU_IMAGES, Extractor
from rekd_hloc.image_listing import list_images
from rekd_hloc.images import read_color

DEFAULT_EXTRACTORS = ("rekd-fast", "rekd", "rekd-upright", "sift", "colmap-sift")
REFERENCE = "colmap-sift"
"""Method that ratios are to, where it is measured."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = make_parser("evaluation.speed", __doc__)
    parser.add_argument("--method", action="append", help="may be given again")
    parser.add_argument("--image", type=Path, help="a picture; default is a view of the demo scene")
    parser.add_argument("--size", default="1024x768", help="WIDTHxHEIGHT it is resized to")
    parser.add_argument("--num-keypoints", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="of torch and OpenCV; default is all cores")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
                        help="option of this project's presets; may be given again")  # fmt: skip
    parser.add_argument("--stages", action="store_true", help="also time the stages")
    parser.add_argument("--batches", metavar="N,N", help="also time so many images at once")
    parser.add_argument("--launches", action="store_true", help="also count a GPU's launches")
    parser.add_argument("--busy", default="0", metavar="N,N", help="neighbours that compute beside")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="also time a folder of photos")
    parser.add_argument("--folder-photos", type=int, default=50, help="most photos of it")
    parser.add_argument(
        "--photos", type=Path, metavar="DIR",
        help="also extract, match, verify and refine these with each method")  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder for results.json")
    arguments = parser.parse_args(argv)
    return exit_status(lambda: _benchmark(arguments))


def _benchmark(arguments: argparse.Namespace) -> None:
    width, height = _read_size(arguments.size)
    counts = _read_counts("busy", arguments.busy)
    at_once = _read_counts("batches", _batches(arguments))
    require_positive(arguments, "repeats", "threads", "folder_photos")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
        cv2.setNumThreads(arguments.threads)
    methods = {
        name: load_extractor(
            name,
            arguments.num_keypoints,
            device=arguments.device,
            overrides=arguments.overrides,
        )
        for name in arguments.method or DEFAULT_EXTRACTORS
    }
    tables = []
    with tempfile.TemporaryDirectory() as scratch:
        picture = _prepare(arguments.image, (width, height), Path(scratch))
        runs = {name: _bind(method, picture) for name, method in methods.items()}
        of_busy = {}
        for count in counts:
            with busy_neighbours(count):
                label = f"{count} busy neighbours" if count else "speed"
                of_busy[count] = measure(runs, arguments.repeats, label=label)
            tables.append(make_table(of_busy[count], count))
        if arguments.stages:
            tables += _time_stages(arguments, picture)
        tables += _time_batches(arguments, picture, [count for count in at_once if count])
        if arguments.launches:
            tables += _count_launches(arguments, picture)
    if arguments.folder:
        tables += _time_folder(arguments, methods)
    if arguments.photos:
        tables.append(_time_steps(arguments.photos, methods))
    record = _describe(of_busy[counts[0]], methods, (width, height))
    if arguments.out:
        write_report(arguments.out, record, tables, [])
    text = "\n".join(map(format_markdown, tables))
    sys.stdout.write(f"{record['description']}\n\n{text}")


def _time_stages(arguments: argparse.Namespace, picture: Path) -> list[Table]:
    """Return a table for each of this project's methods."""
    roof = measure_roof()
    tables = []
    for name, config in _presets(arguments).items():
        extractor = Extractor.from_pretrained(name, device=arguments.device, config=config)
        tables.append(stages_table(name, time_stages(extractor, picture, arguments.repeats), roof))
    return tables


def _time_batches(
    arguments: argparse.Namespace, picture: Path, counts: Sequence[int]
) -> list[Table]:
    """Return a table for each of this project's methods, none if no number of images is given."""
    tables = []
    for name, config in _presets(arguments).items() if counts else ():
        extractor = Extractor.from_pretrained(name, device=arguments.device, config=config)
        rates = time_batches(extractor, picture, counts, arguments.repeats)
        tables.append(batches_table(name, rates))
    return tables


def _count_launches(arguments: argparse.Namespace, picture: Path) -> list[Table]:
    """Return tables for each of this project's methods: one image, and a batch without graphs."""
    tables = []
    for name, config in _presets(arguments).items():
        for count, with_graphs in ((1, False), (GPU_IMAGES, False), (GPU_IMAGES, True)):
            stages = count_launches(name, config, picture, count, with_graphs=with_graphs)
            title = f"{name} with graphs" if with_graphs else name
            tables.append(launches_table(title, stages, count))
    return tables


def _presets(arguments: argparse.Namespace) -> dict[str, ExtractConfig]:
    """Return this project's methods, with the options asked for."""
    return {
        name: load_config(
            with_max_keypoints(get_preset(name), arguments.num_keypoints),
            None,
            arguments.overrides,
        )
        for name in arguments.method or DEFAULT_EXTRACTORS
        if name in PRESETS
    }


def _time_folder(
    arguments: argparse.Namespace, methods: Mapping[str, NamedExtractor]
) -> list[Table]:
    """Return a table for each of this project's methods."""
    count = min(arguments.folder_photos, len(list_images(arguments.folder)))
    return [
        folder_table(time_folder(method, arguments.folder, count, arguments.num_keypoints), count)
        for name, method in methods.items()
        if name in PRESETS
    ]


def _time_steps(photos: Path, methods: Mapping[str, NamedExtractor]) -> Table:
    """Return the table of steps of all methods."""
    tables = []
    for name, method in methods.items():
        with tempfile.TemporaryDirectory() as scratch:
            steps = time_steps(method, photos, Path(scratch))
        tables.append(steps_table(name, len(list_images(photos)), steps))
    return replace(tables[0], rows=[row for table in tables for row in table.rows])


def _batches(arguments: argparse.Namespace) -> str:
    """Return the numbers of images at once as given, or as the device asks for them."""
    is_gpu = choose_device(arguments.device).type == "cuda"
    return str(arguments.batches or ("1,8" if is_gpu else "0"))


def _read_counts(option: str, text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"--{option} must be counts, like 0,1,3, got {text!r}")
    return [int(part) for part in parts]


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


def _bind(method: NamedExtractor, picture: Path) -> Callable[[], int]:
    return lambda: len(method(picture))


def _describe(
    rows: Mapping[str, Timing], methods: Mapping[str, NamedExtractor], size: tuple[int, int]
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
        "methods": {name: {**methods[name].describe(), **asdict(r)} for name, r in rows.items()},
    }


def make_table(rows: Mapping[str, Timing], num_busy: int = 0) -> Table:
    """Return seconds, and their ratio to :data:`REFERENCE` or else to the first method's."""
    reference = REFERENCE if REFERENCE in rows else next(iter(rows))
    columns = ["method", "median, s", "least, s", "CPU, s", "keypoints", "ratio"]
    cells: list[list[Cell]] = [
        [
            name,
            f"{row.median_s:.3f}",
            f"{row.least_s:.3f}",
            f"{row.cpu_s:.3f}",
            row.keypoints,
            f"{row.median_s / rows[reference].median_s:.2f}",
        ]
        for name, row in rows.items()
    ]
    beside = f", {num_busy} busy neighbours" if num_busy else ""
    return Table(f"seconds for one image, ratio to {reference}{beside}", columns, cells)
