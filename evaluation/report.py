"""What every evaluation writes: tables, curves, ``results.json`` and one HTML page.

``results.json`` holds everything; :mod:`evaluation.results` makes the documentation from its keys
``protocol``, ``description``, ``data``, ``date``, ``methods`` and ``tables``.
"""

import base64
import csv
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

Cell = str | float | None


@dataclass(frozen=True)
class Table:
    """Rows of one title; numbers are printed with one decimal, None as a dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Plot:
    """Curves over one axis; the file is called after ``name``."""

    name: str
    title: str
    x_label: str
    y_label: str
    x: Sequence[float]
    curves: Mapping[str, Sequence[float]]


def today() -> str:
    """The date in UTC."""
    return datetime.now(UTC).date().isoformat()


def format_cell(value: Cell) -> str:
    """A cell as text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def format_markdown(table: Table) -> str:
    """A table in Markdown, its title in bold above."""
    lines = [f"**{table.title}**", "", "| " + " | ".join(table.columns) + " |"]
    lines.append("|" + "---|" * len(table.columns))
    lines += ["| " + " | ".join(format_cell(cell) for cell in row) + " |" for row in table.rows]
    return "\n".join(lines) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as JSON; numbers that JSON lacks (inf, nan) become null."""
    write_text(path, json.dumps(_finite(record), indent=1, allow_nan=False) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Write a table with full precision; empty where a figure does not apply."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    write_text(path, text.getvalue())


def draw(plot: Plot, folder: Path) -> Path:
    """Draw curves to ``name.png`` and ``name.svg``; returns the path of the latter."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for number, (label, y) in enumerate(plot.curves.items()):
        style = "-" if number < 10 else "--"  # matplotlib has ten colours
        axes.plot(plot.x, y, style, label=label, marker=".", markersize=4)
    axes.set_title(plot.title, fontsize=10)
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    axes.grid(alpha=0.3)
    if plot.curves:
        axes.legend(fontsize=8)
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("png", "svg"):
        path = folder / f"{plot.name}.{suffix}"
        scratch = path.with_name(path.name + ".tmp")
        figure.savefig(scratch, format=suffix, dpi=150)
        scratch.replace(path)
    return folder / f"{plot.name}.svg"


def write_report(
    out: Path, record: Mapping[str, Any], tables: Sequence[Table], plots: Sequence[Plot]
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
    write_json(
        out / "results.json",
        {
            **record,
            "tables": [
                {"title": t.title, "columns": list(t.columns), "rows": [list(r) for r in t.rows]}
                for t in tables
            ],
        },
    )
    write_text(out / "table.md", text)
    pictures = [draw(plot, out) for plot in plots]
    write_text(out / "report.html", _page(record, tables, pictures))
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _page(record: Mapping[str, Any], tables: Sequence[Table], pictures: Sequence[Path]) -> str:
    """One HTML page that needs no other file."""
    title = f"Protocol {record['protocol']}"
    parts = [
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>",
        f"<title>{html.escape(title)}</title><style>body{{font:15px sans-serif;margin:2em auto;"
        "max-width:70em;padding:0 1em}table{border-collapse:collapse;margin:1em 0}"
        "td,th{padding:.25em .6em;border-bottom:1px solid #ccc;text-align:right}"
        "td:first-child,th:first-child{text-align:left}img{max-width:49%}</style></head><body>",
        f"<h1>{html.escape(title)}</h1><p>{html.escape(record['description'])}</p>",
        f"<p>Data: {html.escape(record['data'])}. Date: {record['date']}.</p>",
    ]
    parts += [_html_table(table) for table in tables]
    for picture in pictures:
        data = base64.b64encode(picture.read_bytes()).decode()
        alt = html.escape(picture.stem)
        parts.append(f"<img alt='{alt}' src='data:image/svg+xml;base64,{data}'>")
    parts.append("<h2>Methods</h2>")
    methods = [
        [name, entry.get("weights", "-"), json.dumps(entry.get("provenance", {}))]
        for name, entry in record["methods"].items()
    ]
    parts.append(_html_table(Table("made with", ("method", "weights", "provenance"), methods)))
    return "\n".join([*parts, "</body></html>", ""])


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(format_cell(cell))}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    return f"<h3>{html.escape(table.title)}</h3><table><tr>{head}</tr>{body}</table>"
