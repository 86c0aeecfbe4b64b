"""Reading results.json files, and putting together what several runs of one protocol measured.

Runs belong together only if protocol, description, data and filter agree: then their tables become
one, and a method that was measured twice is taken from the later run.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evaluation.extractors.named_extractor import REFINED
from evaluation.extractors.registry import EARLIER, EXTRACTORS
from evaluation.reporting.curves import FILTERED, Plot
from evaluation.reporting.report import Table

logger = logging.getLogger(__name__)

RESULTS = "results.json"
OLD_DESCRIPTOR = "+ours"
"""What results from before end in where a detector's keypoints have this project's descriptor."""


PLACES = ("data", "out", "weights", "device", "jobs", "method", "export", "metadata", "validate")
"""Parameters of a program that say where it ran and not what it measured; they are left out."""


@dataclass(frozen=True)
class Made:
    """What a method was measured with."""

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
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Of the command line, where the program keeps them."""

    @property
    def filter(self) -> str:
        """Return the filter of matches that all methods had; ``none`` if there was none."""
        return str(self.parameters.get("filter") or "none")


def read_records(paths: Sequence[Path]) -> list[Record]:
    """Read results.json files, named or anywhere below folders, the older first.

    A folder may be absent: nothing is measured yet. Files below folders that are no results of an
    evaluation are passed over with a warning.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is no results file.
    """
    records: dict[Path, Record] = {}
    for given in paths:
        if given.suffix == ".json":
            if not given.is_file():
                raise FileNotFoundError(f"no results file {given}")
            records[given] = read_record(given)
            continue
        for path in sorted(given.rglob(RESULTS)):
            try:
                records[path] = read_record(path)
            except ValueError as error:
                logger.warning("passed over: %s", error)
    return [records[path] for path in sorted(records, key=lambda path: path.stat().st_mtime_ns)]


def read_record(path: Path) -> Record:
    """Read one results.json; methods that were renamed since get their present names.

    Raises:
        ValueError: the file is none, or a program wrote it that kept its tables elsewhere.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no results file: {error}") from error
    if not isinstance(stored, dict) or "protocol" not in stored:
        raise ValueError(f"{path} is no results file: it has no protocol")
    if "tables" not in stored:
        raise ValueError(f"{path} is no results file: it has no tables; run its program again")
    date = stored.get("date") or _date_of(path)
    return Record(
        protocol=str(stored["protocol"]),
        description=str(stored.get("description", "")),
        data=str(stored.get("data", "")),
        methods={
            present_name(name): Made(_weights_of(entry), date)
            for name, entry in (stored.get("methods") or {}).items()
        },
        tables=[_read_table(table) for table in stored["tables"]],
        plots=[_read_plot(plot) for plot in stored.get("plots", [])],
        parameters={k: v for k, v in (stored.get("parameters") or {}).items() if k not in PLACES},
    )


def merge_records(records: Sequence[Record]) -> list[Record]:
    """Join records of equal protocol, description, data and filter.

    The later wins for each method.
    """
    groups: dict[tuple[str, ...], Record] = {}
    for record in records:
        key = (record.protocol, record.description, record.data, record.filter)
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
    """Return tables of one title and the same columns joined by the first cell of their rows."""
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
    """Return the position of a method in the command lines' list; others follow by name."""
    label = str(name).removesuffix(FILTERED)
    base = label.removesuffix(REFINED).removesuffix(EARLIER)
    rank = EXTRACTORS.index(base) if base in EXTRACTORS else len(EXTRACTORS)
    return rank, label if rank == len(EXTRACTORS) else label.removeprefix(base)


def present_name(name: str) -> str:
    """Return the present name of a method that older results may call by its old one."""
    for ending in ("", FILTERED):
        if name.endswith(f"{OLD_DESCRIPTOR}{ending}"):
            return name.removesuffix(f"{OLD_DESCRIPTOR}{ending}") + f"+rekd-hardnet{ending}"
    return name


def _read_table(stored: Mapping[str, Any]) -> Table:
    rows = [[present_name(str(row[0])), *row[1:]] for row in stored["rows"]]
    return Table(stored["title"], stored["columns"], rows)


def _read_plot(stored: Mapping[str, Any]) -> Plot:
    curves = {present_name(label): curve for label, curve in stored["curves"].items()}
    return Plot(**{**stored, "curves": curves})


def _weights_of(entry: Any) -> str:
    """Hashes of weights, or the version of a program without any."""
    if not isinstance(entry, dict):
        return str(entry)
    version = entry.get("provenance", {}).get("version", "-")
    weights = entry.get("weights", "-")
    return str(version if weights == "-" else weights)


def _date_of(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()
