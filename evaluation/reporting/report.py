"""What every evaluation writes: tables, curves, ``results.json`` and one HTML page.

``results.json`` holds everything; :mod:`evaluation.results` makes the documentation from its keys
``protocol``, ``description``, ``data``, ``date``, ``methods``, ``tables`` and ``plots``.
"""

import base64
import csv
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evaluation.reporting.curves import Plot, assign_colors, draw
from rekd_hloc.files import write_json, write_text

Cell = str | float | None

STYLE = """
table{display:block;overflow-x:auto}
body{font:15px/1.45 sans-serif;margin:2em auto;max-width:76em;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:.6em 0 1.6em}
td,th{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:right;
font-variant-numeric:tabular-nums}
td:first-child,th:first-child{text-align:left;white-space:nowrap}
tr:nth-child(odd) td{background:#f7f8fa} h3{margin-bottom:.2em}
img{width:49%;min-width:24em} pre{background:#f7f8fa;padding:.8em;overflow-x:auto}
"""


@dataclass(frozen=True)
class Table:
    """Rows of one title; numbers are printed with one decimal, None as a dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


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


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Write a table with full precision; empty where a figure does not apply."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    write_text(path, text.getvalue())


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
    shown = {"tables": [asdict(table) for table in tables], "plots": [asdict(p) for p in plots]}
    write_json(out / "results.json", {**record, **shown})
    write_text(out / "table.md", text)
    colors = assign_colors(plots)
    pictures = [draw(plot, out, colors) for plot in plots]
    write_text(out / "report.html", _page(record, tables, pictures))
    return text


def _page(record: Mapping[str, Any], tables: Sequence[Table], pictures: Sequence[Path]) -> str:
    """One HTML page that needs no other file."""
    title = f"Protocol {record['protocol']}"
    parts = [
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>",
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1><p>{html.escape(record['description'])}.</p>",
        f"<p>Data: {html.escape(record['data'])}. Date: {record['date']}.</p>",
    ]
    parts += [_html_table(table) for table in tables]
    for picture in pictures:
        data = base64.b64encode(picture.read_bytes()).decode()
        alt = html.escape(picture.stem)
        parts.append(f"<img alt='{alt}' src='data:image/svg+xml;base64,{data}'>")
    parts.append("<h2>Methods</h2>")
    parts += [_html_extractor(name, entry) for name, entry in record["methods"].items()]
    return "\n".join([*parts, "</body></html>", ""])


def _html_extractor(name: str, entry: Mapping[str, Any]) -> str:
    """A method's weights, and all that it was made with, folded away."""
    weights = entry.get("weights", "-")
    about = f"weights {html.escape(weights)}" if weights != "-" else "no weights"
    lines = "\n".join(_flat_lines("", entry.get("provenance", {})))
    return (
        f"<details><summary><b>{html.escape(name)}</b>: {about}</summary>"
        f"<pre>{html.escape(lines)}</pre></details>"
    )


def _flat_lines(prefix: str, value: Any) -> list[str]:
    """Nested settings as lines ``detector.border_px = 15``; texts that hold JSON are opened."""
    if isinstance(value, str) and value.startswith("{"):
        value = json.loads(value)
    if not isinstance(value, Mapping):
        return [f"{prefix} = {value}"]
    dot = f"{prefix}." if prefix else ""
    return [line for key, item in value.items() for line in _flat_lines(f"{dot}{key}", item)]


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(format_cell(cell))}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    return f"<h3>{html.escape(table.title)}</h3><table><tr>{head}</tr>{body}</table>"
