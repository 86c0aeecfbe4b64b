"""Reading results.json files, and putting together what several runs of one protocol measured.

Runs belong together only if protocol, description and data agree: then their tables become one,
and a method that was measured twice is taken from the later run.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evaluation.extractors.registry import EXTRACTORS
from evaluation.reporting.curves import FILTERED, Plot
from evaluation.reporting.report import Table

logger = logging.getLogger(__name__)

RESULTS = "results.json"


@dataclass(frozen=True)
class Made:
    """What the figures of a method were made with."""

    weights: str
    date: str


@dataclass(frozen=True)
class Record:
    """One results.json, or several put together."""

    protocol: str
    description: str
    data: str
    methods: Mapping[str, Made]
    tables: Sequence[Table]
    plots: Sequence[Plot]
    text: str = ""
    """Markdown of programs that keep their tables in a file of their own."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Of the command line, where the program keeps them."""


def read_records(places: Sequence[Path]) -> list[Record]:
    """The results.json files among files and below folders, the older first.

    A folder may be absent: nothing is measured yet. Files below folders that are no results of an
    evaluation are passed over with a warning.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is no results file.
    """
    found: dict[Path, Record] = {}
    for place in places:
        if place.suffix == ".json":
            if not place.is_file():
                raise FileNotFoundError(f"no results file {place}")
            found[place] = read_record(place)
            continue
        for path in sorted(place.rglob(RESULTS)):
            try:
                found[path] = read_record(path)
            except ValueError as error:
                logger.warning("passed over: %s", error)
    return [found[path] for path in sorted(found, key=lambda path: path.stat().st_mtime_ns)]


def read_record(path: Path) -> Record:
    """One results.json.

    Raises:
        ValueError: it is none.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no results file: {error}") from error
    if not isinstance(stored, dict) or "protocol" not in stored:
        raise ValueError(f"{path} is no results file: it has no protocol")
    date = stored.get("date") or _date_of(path)
    text = ""
    if "tables" not in stored:
        beside = path.with_name("table.md")
        if not beside.is_file():
            raise ValueError(f"{path} is no results file: it has no tables, and no table.md beside")
        text = beside.read_text(encoding="utf-8").strip()
    return Record(
        protocol=str(stored["protocol"]),
        description=str(stored.get("description", "")),
        data=str(stored.get("data", stored.get("images", ""))),
        methods={name: Made(weights, date) for name, weights in _weights(stored).items()},
        tables=[Table(**table) for table in stored.get("tables", [])],
        plots=[Plot(**plot) for plot in stored.get("plots", [])],
        text=text,
        parameters=dict(stored.get("parameters") or {}),
    )


def merge_records(records: Sequence[Record]) -> list[Record]:
    """Records of equal protocol, description and data as one; the later wins for each method."""
    groups: dict[tuple[str, ...], Record] = {}
    for record in records:
        key = (record.protocol, record.description, record.data, record.text)
        groups[key] = _join(groups[key], record) if key in groups else record
    return [_sort(record) for record in groups.values()]


def _join(old: Record, new: Record) -> Record:
    for name in old.methods.keys() & new.methods.keys():
        if old.methods[name] != new.methods[name]:
            logger.warning("%s of protocol %s: the later of two runs", name, new.protocol)
    return replace(
        old,
        methods={**old.methods, **new.methods},
        tables=_join_tables(old.tables, new.tables),
        plots=_join_plots(old.plots, new.plots),
    )


def _join_tables(old: Sequence[Table], new: Sequence[Table]) -> list[Table]:
    """Tables of one title and the same columns joined by the first cell of their rows."""
    tables = {(table.title, tuple(table.columns)): table for table in old}
    for table in new:
        key = table.title, tuple(table.columns)
        before = tables[key].rows if key in tables else []
        renewed = {row[0] for row in table.rows}
        rows = [*(row for row in before if row[0] not in renewed), *table.rows]
        tables[key] = replace(table, rows=rows)
    return list(tables.values())


def _join_plots(old: Sequence[Plot], new: Sequence[Plot]) -> list[Plot]:
    plots = {(plot.name, tuple(plot.x)): plot for plot in old}
    for plot in new:
        key = plot.name, tuple(plot.x)
        curves = {**plots[key].curves, **plot.curves} if key in plots else plot.curves
        plots[key] = replace(plot, curves=curves)
    return list(plots.values())


def _sort(record: Record) -> Record:
    """Methods in the order of the command lines' list everywhere."""
    return replace(
        record,
        methods={name: record.methods[name] for name in sorted(record.methods, key=extractor_rank)},
        tables=[
            replace(t, rows=sorted(t.rows, key=lambda r: extractor_rank(r[0])))
            for t in record.tables
        ],
        plots=[
            replace(
                plot, curves={k: plot.curves[k] for k in sorted(plot.curves, key=extractor_rank)}
            )
            for plot in record.plots
        ],
    )


def extractor_rank(name: Any) -> tuple[int, str]:
    """Place of a method in the command lines' list; others follow by name."""
    base = str(name).removesuffix(FILTERED)
    place = EXTRACTORS.index(base) if base in EXTRACTORS else len(EXTRACTORS)
    return place, base if place == len(EXTRACTORS) else ""


def _weights(stored: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of weights, or the version of a program without any, by method.

    Programs whose rows are no methods name the weights alone.
    """
    if isinstance(methods := stored.get("methods"), dict):
        return {name: _weights_of(entry) for name, entry in methods.items()}
    found = dict(stored["weights"]) if isinstance(stored.get("weights"), dict) else {}
    for record in stored.get("records", []):
        found[record["method"]] = " ".join((record["weights"] or {}).values()) or "-"
    return found


def _weights_of(entry: Any) -> str:
    if not isinstance(entry, dict):
        return str(entry)
    version = entry.get("provenance", {}).get("version", "-")
    weights = entry.get("weights", "-")
    return str(version if weights == "-" else weights)


def _date_of(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()
