"""The measured tables under docs/results: for each part one JSON and one or two CSV files.

``NAME.json`` says how each record was measured: protocol, data, parameters, and the weights and the
date of each method. ``NAME.csv`` holds the rows of all its tables; ``record`` counts the JSON's
records from 1. ``NAME-curves.csv`` holds the curves, one point a row. Reading gives back what was
written, with every cell as text.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.reporting.curves import Plot
from evaluation.reporting.records import Made, Record
from evaluation.reporting.report import Cell, Table, write_csv
from rekd_hloc.files import write_json

CURVES = "-curves.csv"
CURVE_COLUMNS = ("record", "plot", "method", "x", "y")


def write_part(
    folder: Path, name: str, title: str, command: str, records: Sequence[Record]
) -> None:
    """Write a part's records to ``NAME.json``, ``NAME.csv`` and, if any, ``NAME-curves.csv``.

    Args:
        folder: of all parts.
        name: of the part, which names its files.
        title: what people call it.
        command: the line that measures it.
        records: in the order in which they are numbered.
    """
    about = {"part": name, "title": title, "command": command}
    write_json(folder / f"{name}.json", {**about, "records": [_describe(r) for r in records]})
    write_csv(folder / f"{name}.csv", *_table_rows(records))
    points: list[list[Cell]] = [
        [number, plot.name, method, float(x), float(y)]
        for number, record in enumerate(records, start=1)
        for plot in record.plots
        for method, curve in plot.curves.items()
        for x, y in zip(plot.x, curve, strict=True)
    ]
    if points:
        write_csv(folder / f"{name}{CURVES}", CURVE_COLUMNS, points)


def read_part(folder: Path, name: str) -> list[Record]:
    """Return the records of a part; none if nothing of it is stored.

    Raises:
        ValueError: a file was written by another program.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        return []
    try:
        described = json.loads(path.read_text(encoding="utf-8"))["records"]
        rows, points = _read_rows(folder / f"{name}.csv"), _read_rows(folder / f"{name}{CURVES}")
        return [
            _restore(entry, rows.get(str(number), []), points.get(str(number), []))
            for number, entry in enumerate(described, start=1)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} was not written by evaluation.results: {error!r}") from error


def _describe(record: Record) -> dict[str, Any]:
    """Return everything but the rows and the points."""
    tables = [{"title": t.title, "columns": list(t.columns)} for t in record.tables]
    plots = [{"name": p.name, "title": p.title, "x_label": p.x_label, "y_label": p.y_label}
             for p in record.plots]  # fmt: skip
    return {
        "protocol": record.protocol,
        "description": record.description,
        "data": record.data,
        "parameters": dict(record.parameters),
        "methods": {method: asdict(made) for method, made in record.methods.items()},
        "tables": tables,
        "plots": plots,
    }


def _table_rows(records: Sequence[Record]) -> tuple[list[str], list[list[Cell]]]:
    """One header for all tables, and their rows; cells of other tables' columns stay empty."""
    tables = [(n, r, t) for n, r in enumerate(records, start=1) for t in r.tables]
    columns = list(dict.fromkeys(column for _, _, table in tables for column in table.columns))
    varying = _varying_parameters(records)
    rows: list[list[Cell]] = []
    for number, record, table in tables:
        about: list[Cell] = [number, record.protocol, record.data]
        about += [_as_text(record.parameters.get(key)) for key in varying]
        for row in table.rows:
            cells = dict(zip(table.columns, row, strict=True))
            rows.append([*about, table.title, *(cells.get(column) for column in columns)])
    parameters = [f"parameters.{key}" for key in varying]
    return ["record", "protocol", "data", *parameters, "table", *columns], rows


def _varying_parameters(records: Sequence[Record]) -> list[str]:
    keys = dict.fromkeys(key for record in records for key in record.parameters)
    return [k for k in keys if len({_as_text(r.parameters.get(k)) for r in records}) > 1]


def _as_text(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return None if value is None else str(value)


def _read_rows(path: Path) -> dict[str, list[dict[str, str]]]:
    """Return the rows of a CSV file by the number of their record."""
    rows: dict[str, list[dict[str, str]]] = {}
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                rows.setdefault(row["record"], []).append(row)
    return rows


def _restore(
    entry: Mapping[str, Any], rows: list[dict[str, str]], points: list[dict[str, str]]
) -> Record:
    tables = [
        Table(
            table["title"],
            table["columns"],
            [
                [row[column] or None for column in table["columns"]]
                for row in rows
                if row["table"] == table["title"]
            ],
        )
        for table in entry["tables"]
    ]
    return Record(
        protocol=entry["protocol"],
        description=entry["description"],
        data=entry["data"],
        methods={method: Made(**made) for method, made in entry["methods"].items()},
        tables=tables,
        plots=[_restore_plot(plot, points) for plot in entry["plots"]],
        parameters=entry["parameters"],
    )


def _restore_plot(entry: Mapping[str, str], points: list[dict[str, str]]) -> Plot:
    curves: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        if point["plot"] == entry["name"]:
            curves.setdefault(point["method"], []).append((float(point["x"]), float(point["y"])))
    x = [at for at, _ in next(iter(curves.values()), [])]
    return Plot(**entry, x=x, curves={m: [y for _, y in curve] for m, curve in curves.items()})
