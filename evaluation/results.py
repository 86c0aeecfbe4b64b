"""Fills the tables and figures of docs/results.md from what was measured.

    python -m evaluation.results runs/results

reads every results.json below the folder, writes each part between its marks in the document, and
names what is missing with the command that measures it. Text outside the marks is left as it is,
and so is a part that the folder has nothing of. With --measure, what is missing is measured first:
all of it takes a day on a CPU, goes on where it was interrupted, and can be done part by part.
"""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.command_line import exit_status, make_parser
from evaluation.extractors.registry import load_extractor
from evaluation.reporting.results_document import (
    format_missing,
    format_part,
    has_content,
    replace_block,
)
from evaluation.reporting.results_plan import PARTS, PRESET_NAMES, Part
from evaluation.reporting.results_records import Record, merge_records, read_records
from rekd_hloc.cli.environment import describe_environment
from rekd_hloc.files import write_text

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    arguments = build_parser().parse_args(argv)
    parts = [part for part in PARTS if not arguments.part or part.name in arguments.part]
    places = arguments.results or [ROOT / "runs" / "results"]
    data = arguments.data or Path(os.environ.get("REKD_DATA", str(ROOT.parent / "shared" / "data")))
    figures = arguments.figures or arguments.document.parent / "figures"

    def work() -> None:
        if arguments.measure:
            measure_missing(parts, data, places)
        found = read_records(places)
        records = merge_records(found)
        _warn_of_other_weights(records)
        lines = write_document(arguments.document, figures, parts, records)
        for part in parts:
            if missing := extractors_to_measure(part, records):
                words = str(data), str(places[0]), missing, _next_run(part, found)
                lines.append(f"missing: {part.command(*words)}")
        sys.stdout.write("\n".join(lines) + "\n")

    return exit_status(work, also=(RuntimeError,))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
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
    add("--document", type=Path, default=ROOT / "docs" / "results.md", metavar="FILE")
    add("--figures", type=Path, metavar="DIR", help="default: figures beside the document")
    return parser


def write_document(
    path: Path, figures: Path, parts: Sequence[Part], records: Sequence[Record]
) -> list[str]:
    """Write the blocks of all parts into the document, and its figures.

    Results of protocols that no part shows follow at its end.

    Returns:
        A line for each part: what was done.
    """
    document = path.read_text(encoding="utf-8") if path.is_file() else "# Results\n"
    lines = []
    for part in [*parts, *_other_parts(records)]:
        found = [record for record in records if part.shows(record.protocol)]
        if found:
            missing = missing_extractors(part, records)
            body = format_part(part, found, missing, figures, path.parent)
            document = replace_block(document, part.name, part.title, body)
            lines.append(f"{part.name}: {len(found[0].methods)} methods written")
        elif has_content(document, part.name):
            lines.append(f"{part.name}: no results, the document's are kept")
        else:
            document = replace_block(document, part.name, part.title, format_missing(part))
            lines.append(f"{part.name}: nothing measured")
    write_text(path, document)
    return lines


def missing_extractors(part: Part, records: Sequence[Record]) -> list[str]:
    """Methods that the part should show and no record has; all where there is no record."""
    have = {name for record in records if part.shows(record.protocol) for name in record.methods}
    return [name for name in part.methods if name not in have]


def extractors_to_measure(part: Part, records: Sequence[Record]) -> list[str]:
    """Missing methods; all of a part whose methods compare only within one run."""
    missing = missing_extractors(part, records)
    return list(part.methods) if missing and part.is_one_run else missing


def measure_missing(parts: Sequence[Part], data: Path, places: Sequence[Path]) -> None:
    """Run the programs of all parts that lack a method, or everything.

    Methods that cannot run here are left out with a warning.

    Raises:
        FileNotFoundError: no data.
        RuntimeError: a program failed.
    """
    for folder in ("homographies", "train"):
        if not (data / folder).is_dir():
            raise FileNotFoundError(
                f"no folder {data / folder}: name the data with --data or REKD_DATA"
            )
    records = read_records(places)
    for part in parts:
        run = _next_run(part, records)
        usable = _usable_extractors(missing_extractors(part, records))
        if not usable and (run > 1 or part.methods):
            continue
        if part.is_one_run:
            usable = _usable_extractors(part.methods)
        logger.info("measuring %s", part.name)
        words = part.words(str(data), str(places[0]), usable, run)
        if importlib.import_module(part.program).main(words) != 0:
            raise RuntimeError(f"{part.name} failed; its message is above")


def _next_run(part: Part, found: Sequence[Record]) -> int:
    """1 if nothing of the part is measured, and so on, so that no results are overwritten."""
    return 1 + sum(part.shows(record.protocol) for record in found)


def _usable_extractors(names: Sequence[str]) -> list[str]:
    usable = []
    for name in names:
        try:
            load_extractor(name, 10)
            usable.append(name)
        except (ValueError, FileNotFoundError) as error:
            logger.warning("left out: %s", error)
    return usable


def _other_parts(records: Sequence[Record]) -> list[Part]:
    known = {record.protocol for record in records if any(p.shows(record.protocol) for p in PARTS)}
    names = dict.fromkeys(record.protocol for record in records if record.protocol not in known)
    programs = {"roto360": ("evaluation.rotation", ("--roto360",))}
    parts = []
    for name in names:
        program, words = programs.get(name, ("evaluation.hpatches", ("--protocol", name)))
        parts.append(Part(name, f"Protocol {name}", (name,), program, words))
    return parts


def _warn_of_other_weights(records: Sequence[Record]) -> None:
    """Figures of weights that are no longer those in the package are worth measuring again."""
    shipped = {entry["hash"] for entry in describe_environment()["weights"].values()}
    for record in records:
        for name, made in record.methods.items():
            if name in PRESET_NAMES and not shipped.issuperset(made.weights.split()):
                logger.warning(
                    "%s of protocol %s was measured %s with weights %s, which are not the "
                    "package's now",
                    *(name, record.protocol, made.date, made.weights),
                )


if __name__ == "__main__":
    sys.exit(main())
