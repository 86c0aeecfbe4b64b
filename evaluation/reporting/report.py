"""What every evaluation writes: tables, curves, ``results.json`` and one HTML page.

``results.json`` holds everything; :mod:`evaluation.results` collects its keys ``protocol``,
``description``, ``data``, ``date``, ``methods``, ``parameters``, ``tables`` and ``plots``.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evaluation.reporting.curves import Plot, assign_colors, draw
from rekd_hloc.files import write_json, write_text
from rekd_hloc.viz.templates import Picture, render_template

Cell = str | float | None

TEMPLATE = Path(__file__).parent / "report.html"


@dataclass(frozen=True)
class Table:
    """Rows of one title; numbers are printed with one decimal, None as a dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def today() -> str:
    """Return the date in UTC, as ``2026-01-31``."""
    return datetime.now(UTC).date().isoformat()


def format_cell(value: Cell) -> str:
    """Return a cell as text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def format_markdown(table: Table) -> str:
    """Return a table in Markdown, with its title in bold above."""
    lines = [f"**{table.title}**", "", "| " + " | ".join(table.columns) + " |"]
    lines.append("|" + "---|" * len(table.columns))
    lines += ["| " + " | ".join(format_cell(cell) for cell in row) + " |" for row in table.rows]
    return "\n".join(lines) + "\n"


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Write a table with full precision; empty where a value does not apply."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    write_text(path, text.getvalue())


def write_report(
    out: Path, record: Mapping[str, Any], tables: Sequence[Table], plots: Sequence[Plot] = ()
) -> str:
    """Write results.json, table.md, the curves and report.html to a folder.

    Args:
        out: the folder.
        record: must have ``protocol``, ``description``, ``data``, ``date`` and ``methods``.
        tables: shown in order.
        plots: drawn below them.

    Returns:
        The text of table.md.
    """
    heading = f"Protocol {record['protocol']}: {record['description']}\n\nData: {record['data']}\n"
    text = "\n".join([heading, *(format_markdown(table) for table in tables)])
    shown = {"tables": [asdict(table) for table in tables], "plots": [asdict(p) for p in plots]}
    write_json(out / "results.json", {**record, **shown})
    write_text(out / "table.md", text)
    colors = assign_colors(plots)
    curves = [draw(plot, out, colors) for plot in plots]
    write_text(out / "report.html", _format_page(record, tables, curves))
    return text


def _format_page(record: Mapping[str, Any], tables: Sequence[Table], curves: Sequence[Path]) -> str:
    """Return one HTML page that needs no other file."""
    return render_template(
        TEMPLATE,
        title=f"Protocol {record['protocol']}",
        lead=f"{record['description']}. Data: {record['data']}. Date: {record['date']}.",
        tables=[replace(t, rows=[list(map(format_cell, row)) for row in t.rows]) for t in tables],
        curves=[Picture(path.read_bytes(), "svg+xml", path.stem) for path in curves],
        methods={
            _describe_weights(name, entry): "\n".join(_flat_lines("", entry.get("provenance", {})))
            for name, entry in record["methods"].items()
        },
    )


def _describe_weights(name: str, entry: Mapping[str, Any]) -> str:
    weights = entry.get("weights", "-")
    return f"{name}: no weights" if weights == "-" else f"{name}: weights {weights}"


def _flat_lines(prefix: str, value: Any) -> list[str]:
    """Nested settings as lines ``detector.border_px = 15``; texts that hold JSON are opened."""
    if isinstance(value, str) and value.startswith("{"):
        value = json.loads(value)
    if not isinstance(value, Mapping):
        return [f"{prefix} = {value}"]
    dot = f"{prefix}." if prefix else ""
    return [line for key, item in value.items() for line in _flat_lines(f"{dot}{key}", item)]
