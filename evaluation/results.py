"""Collects what was measured into docs/results: raw tables, how they were measured, and charts.

    python -m evaluation.results runs/results

reads every results.json below the folder, joins each part with what docs/results has of it, and
writes NAME.csv, NAME.json and the chart NAME.png there (NAME-curves.png for curves). It names what
is missing with the command that measures it. With --measure, what is missing is measured first:
all of it takes a day on a CPU, goes on where it was interrupted, and can be done part by part.
"""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evaluation.command_line import exit_status, make_parser
from evaluation.extractors.named_extractor import REFINED
from evaluation.extractors.registry import load_extractor
from evaluation.reporting.charts import draw_charts
from evaluation.reporting.plan import PARTS, PRESET_NAMES, Part
from evaluation.reporting.records import Record, merge_records, read_records
from evaluation.reporting.store import read_part, write_part
from rekd_hloc.cli.environment import describe_environment

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = build_parser().parse_args(argv)
    parts = [part for part in PARTS if not arguments.part or part.name in arguments.part]
    runs = arguments.results or [ROOT / "runs" / "results"]
    data = arguments.data or Path(os.environ.get("REKD_DATA", str(ROOT.parent / "shared" / "data")))
    out = arguments.out

    def work() -> None:
        if arguments.measure:
            measure_missing(parts, data, runs, out)
        measured = read_records(runs)
        lines = []
        for part in [*parts, *_other_parts(measured)]:
            records = collect_part(part, measured, out)
            _warn_of_other_weights(records)
            lines.append(f"{part.name}: {_count_methods(records)} methods")
            if missing := extractors_to_measure(part, records):
                words = str(data), str(runs[0]), missing, _next_run(part, measured)
                lines.append(f"missing: {part.command(*words)}")
        sys.stdout.write("\n".join(lines) + "\n")

    return exit_status(work, also=(RuntimeError,))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    names = ", ".join(part.name for part in PARTS)
    parser = make_parser("evaluation.results", __doc__)
    add = parser.add_argument
    add(
        "results",
        type=Path,
        nargs="*",
        help="folders (searched with subfolders) or results.json files; default runs/results",
    )
    add("--part", action="append", metavar="NAME", help=f"only these parts: {names}")
    add("--measure", action="store_true", help="measure what is missing, into the first folder")
    add("--data", type=Path, metavar="DIR", help="with homographies, train, imc2021")
    add("--out", type=Path, default=ROOT / "docs" / "results", metavar="DIR", help="docs/results")
    return parser


def collect_part(part: Part, measured: Sequence[Record], folder: Path) -> list[Record]:
    """Join what is stored of a part with what was measured of it, and write its files.

    Args:
        part: one benchmark.
        measured: results of any parts, the older first; they are newer than the stored ones.
        folder: of the stored results.

    Returns:
        The part's records; none if nothing of it is stored or measured, then nothing is written.
    """
    records = merge_records(_records_of(part, measured, folder))
    if part.chart is None:  # poses: their curves say no more than their bars
        records = [replace(record, plots=[]) for record in records]
    if records:
        command = part.command("DATA", "runs/results", ["..."] if part.methods else [])
        write_part(folder, part.name, part.title, command, records)
        draw_charts(part, records, folder)
    return records


def missing_extractors(part: Part, records: Sequence[Record]) -> list[str]:
    """Return the methods that should be measured and that no record of the part has."""
    measured = {name for record in records for name in record.methods}
    return [name for name in part.methods if name not in measured]


def extractors_to_measure(part: Part, records: Sequence[Record]) -> list[str]:
    """Return the missing methods; all of a part whose methods compare only within one run."""
    missing = missing_extractors(part, records)
    return list(part.methods) if missing and part.is_one_run else missing


def measure_missing(parts: Sequence[Part], data: Path, runs: Sequence[Path], folder: Path) -> None:
    """Run the programs of all parts that lack a method, or everything.

    Methods that cannot run here are left out with a warning.

    Args:
        parts: to measure.
        data: with the folders ``homographies`` and ``train``.
        runs: folders of results that were measured; new ones go into the first.
        folder: of the stored results.

    Raises:
        FileNotFoundError: there is no data.
        RuntimeError: a program failed.
    """
    for name in ("homographies", "train"):
        if not (data / name).is_dir():
            raise FileNotFoundError(
                f"no folder {data / name}: name the data with --data or REKD_DATA"
            )
    measured = read_records(runs)
    for part in parts:
        run = _next_run(part, measured)
        records = _records_of(part, measured, folder)
        usable = _usable_extractors(missing_extractors(part, records))
        if not usable and (records or part.methods):
            continue
        if part.is_one_run:
            usable = _usable_extractors(part.methods)
        logger.info("measuring %s", part.name)
        words = part.words(str(data), str(runs[0]), usable, run)
        if importlib.import_module(part.program).main(words) != 0:
            raise RuntimeError(f"{part.name} failed; its message is above")


def _records_of(part: Part, measured: Sequence[Record], folder: Path) -> list[Record]:
    """Return what is stored of a part, and after it what was measured of it."""
    new = [record for record in measured if record.protocol in part.protocols]
    return [*read_part(folder, part.name), *new]


def _next_run(part: Part, measured: Sequence[Record]) -> int:
    """1 if no run of the part is there, and so on, so that no results are overwritten."""
    return 1 + sum(record.protocol in part.protocols for record in measured)


def _usable_extractors(names: Sequence[str]) -> list[str]:
    usable = []
    for name in names:
        try:
            load_extractor(name, 10)
            usable.append(name)
        except (ValueError, FileNotFoundError) as error:
            logger.warning("left out: %s", error)
    return usable


def _count_methods(records: Sequence[Record]) -> int:
    return len({name for record in records for name in record.methods})


def _other_parts(records: Sequence[Record]) -> list[Part]:
    """Return a part for each protocol that the plan does not have."""
    planned = {protocol for part in PARTS for protocol in part.protocols}
    names = dict.fromkeys(r.protocol for r in records if r.protocol not in planned)
    programs = {"roto360": ("evaluation.rotation", ("--roto360",))}
    parts = []
    for name in names:
        program, words = programs.get(name, ("evaluation.hpatches", ("--protocol", name)))
        parts.append(Part(name, f"Protocol {name}", (name,), program, words))
    return parts


def _warn_of_other_weights(records: Sequence[Record]) -> None:
    """Results of weights that are no longer those in the package are worth measuring again."""
    shipped = {entry["hash"] for entry in describe_environment()["weights"].values()}
    for record in records:
        for name, made in record.methods.items():
            is_preset = name.removesuffix(REFINED) in PRESET_NAMES
            if is_preset and not shipped.issuperset(made.weights.split()):
                logger.warning(
                    "%s of protocol %s was measured %s with weights %s, which are not the "
                    "package's now",
                    *(name, record.protocol, made.date, made.weights),
                )


if __name__ == "__main__":
    sys.exit(main())
