"""Writes the measured part of docs/results.md: ``python -m evaluation.results [results.json ...]``.

With files, their tables are written as they are. Without, everything is measured first, which takes
hours on a CPU and goes on where it was interrupted. Text outside the two marks in the document is
left as it is.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation import hpatches, rotation, speed
from evaluation.baselines import METHODS, load_method
from evaluation.report import Table, format_markdown, write_text

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]
BEGIN = "<!-- measured: begin, written by `make results` -->"
END = "<!-- measured: end -->"
NEEDED = ("protocol", "description", "data", "date", "methods", "tables")
SAME_DESCRIPTOR = ("rootsift+ours", "orb+ours", "disk+ours", "aliked-n16+ours")
SPEED_METHODS = ("rekd-fast", "rekd", "rekd-upright", "sift", "colmap-sift")


@dataclass(frozen=True)
class Run:
    """One program with its arguments; its results go to a folder of that name."""

    name: str
    main: Callable[[Sequence[str]], int]
    arguments: tuple[str, ...]
    methods: tuple[str, ...]


def plan_runs(data: Path) -> list[Run]:
    """What docs/results.md reports."""
    everything = (*METHODS, *SAME_DESCRIPTOR)
    sequences = ("--data", str(data / "homographies"))
    train = data / "train"
    photos = ("--data", *(str(path) for path in sorted(train.iterdir())), "--held-out")
    blur = ("--sweep", "gaussian", "--sweep", "motion", "--sweep", "scale")
    return [
        Run("hpatches-rekd", hpatches.main, sequences, everything),
        Run(
            "hpatches-homography-auc",
            hpatches.main,
            (*sequences, "--protocol", "homography-auc"),
            everything,
        ),
        Run("hpatches-keynet", hpatches.main, (*sequences, "--protocol", "keynet"), METHODS),
        Run(
            "hpatches-superpoint", hpatches.main, (*sequences, "--protocol", "superpoint"), METHODS
        ),
        Run("rotation", rotation.main, photos, METHODS),
        Run("sweeps", rotation.main, (*photos, *blur), METHODS),
        Run("speed", speed.main, (), SPEED_METHODS),
    ]


def measure(runs: Sequence[Run], out: Path, extra: Sequence[str] = ()) -> list[Path]:
    """Run all programs; methods that lack something are left out with a warning.

    Returns:
        The results.json files, in the order of the runs.

    Raises:
        RuntimeError: a program failed.
    """
    usable = _usable_methods({name for run in runs for name in run.methods})
    found: list[Path] = []
    for run in runs:
        folder = out / run.name
        chosen = [part for name in run.methods if name in usable for part in ("--method", name)]
        logger.info("%s", run.name)
        if run.main([*run.arguments, *chosen, *extra, "--out", str(folder)]) != 0:
            raise RuntimeError(f"{run.name} failed; its message is above")
        found += [folder / "results.json"] if (folder / "results.json").is_file() else []
        found += sorted(folder.glob("*/results.json"))
    return found


def read_results(path: Path) -> dict[str, Any]:
    """One results.json.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is none, or lacks what the document needs.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no results file {path}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no results file: {error}") from error
    missing = [key for key in NEEDED if key not in record] if isinstance(record, dict) else NEEDED
    if missing:
        raise ValueError(f"{path} is no results file: it has no {', '.join(missing)}")
    return dict(record)


def format_section(record: Mapping[str, Any]) -> str:
    """Protocol, data, date, tables, and the weights behind them, in Markdown."""
    lines = [
        f"## Protocol {record['protocol']}: {record['data']}",
        "",
        f"{record['description']}. Measured {record['date']}.",
        "",
    ]
    for table in record["tables"]:
        lines.append(format_markdown(Table(table["title"], table["columns"], table["rows"])))
    made = [
        f"{name} `{entry['weights']}`"
        for name, entry in record["methods"].items()
        if entry.get("weights", "-") != "-"
    ]
    if made:
        lines += [f"Weights: {'; '.join(made)}.", ""]
    return "\n".join(lines)


def replace_measured(document: str, measured: str) -> str:
    """The document with the part between the marks replaced; without marks, it is appended."""
    block = f"{BEGIN}\n\n{measured.strip()}\n\n{END}"
    if BEGIN not in document or END not in document:
        return f"{document.rstrip()}\n\n{block}\n".lstrip()
    before, rest = document.split(BEGIN, 1)
    return before + block + rest.split(END, 1)[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.results", description=__doc__)
    parser.add_argument("files", type=Path, nargs="*", help="results.json files, in order")
    parser.add_argument("--document", type=Path, default=ROOT / "docs" / "results.md")
    parser.add_argument("--data", type=Path, help="folder with homographies/ and train/")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "results")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        files = arguments.files or measure(plan_runs(_find_data(arguments.data)), arguments.out)
        sections = [format_section(read_results(path)) for path in files]
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        logger.error("%s", error)
        return 2
    document = "# Results\n"
    if arguments.document.is_file():
        document = arguments.document.read_text(encoding="utf-8")
    write_text(arguments.document, replace_measured(document, "\n".join(sections)))
    sys.stdout.write(f"{len(sections)} sections in {arguments.document}\n")
    return 0


def _find_data(given: Path | None) -> Path:
    data = given or Path(os.environ.get("REKD_DATA", ROOT.parent / "shared" / "data"))
    for part in ("homographies", "train"):
        if not (data / part).is_dir():
            raise FileNotFoundError(
                f"no folder {data / part}: name the data with --data or REKD_DATA, or give "
                "results.json files"
            )
    return data


def _usable_methods(names: set[str]) -> set[str]:
    usable = set()
    for name in sorted(names):
        try:
            load_method(name, 10)
            usable.add(name)
        except (ValueError, FileNotFoundError) as error:
            logger.warning("left out: %s", error)
    return usable


if __name__ == "__main__":
    sys.exit(main())
