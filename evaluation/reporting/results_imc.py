"""An overview of pose tables: mAA(10) of every method under every condition, side by side.

The full tables are one for each protocol, data and choice of settings. Here each task and budget of
keypoints has one table, whose columns are scenes and conditions.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from evaluation.reporting.report import Table
from evaluation.reporting.results_records import Record, extractor_rank

FIGURE = "mAA(10)"
TASKS = {"imc2021-stereo": "stereo", "imc2021-multiview": "multiview"}
FEWEST_RECORDS = 3
"""With fewer the full tables are overview enough."""


class Column(NamedTuple):
    """What a column is of, in the order of columns."""

    scene: str
    num_images: int
    rank: int
    condition: str
    bags: str


class Entry(NamedTuple):
    """Figures of a method in a column, one for each bag size, and the ratio test of its matches."""

    values: tuple[float, ...]
    ratio: str


def make_overviews(records: Sequence[Record]) -> list[Table]:
    """One table a task and number of keypoints; none where there are few records.

    The best figure of a column of several methods, on average over bag sizes, is bold. Where two
    records have the same conditions the later one counts.

    Args:
        records: of :mod:`evaluation.imc`; others are passed over.
    """
    found: dict[tuple[int, str], dict[Column, dict[str, Entry]]] = {}
    of_tasks = [r for r in records if r.protocol in TASKS and "num_keypoints" in r.parameters]
    if len(of_tasks) < FEWEST_RECORDS:
        return []
    for record in of_tasks:
        place = int(record.parameters["num_keypoints"]), record.protocol
        for table in record.tables:
            column, entries = _read(table, record)
            found.setdefault(place, {}).setdefault(column, {}).update(entries)
    places = sorted(found, key=lambda place: (place[0], list(TASKS).index(place[1])))
    return [
        _format(f"{FIGURE}, {TASKS[task]}, {num_keypoints} keypoints", found[num_keypoints, task])
        for num_keypoints, task in places
    ]


def _read(table: Table, record: Record) -> tuple[Column, dict[str, Entry]]:
    """Title is ``Stereo, SCENE, pairs: 3`` or ``Multiview, SCENE, ...``; see their writers."""
    at = {name: place for place, name in enumerate(table.columns)}
    scene = table.title.split(", ")[1]
    images = re.search(rf"{re.escape(scene)}, (\d+) images", record.data)
    rank, condition = _condition(record.parameters)
    sizes = [row[at["bag size"]] for row in table.rows] if "bag size" in at else []
    sizes = [size for size in dict.fromkeys(sizes) if size != "mean"]
    column = Column(
        scene, int(images[1]) if images else 0, rank, condition, " / ".join(map(str, sizes))
    )
    values: dict[str, list[float]] = {}
    ratios: dict[str, str] = {}
    for row in table.rows:
        if sizes and row[at["bag size"]] not in sizes:
            continue
        name = str(row[at["method"]])
        values.setdefault(name, []).append(float(str(row[at[FIGURE]])))
        ratio = re.search(r"ratio \S+", str(row[at["matches by"]]))
        ratios[name] = ratio[0] if ratio else "no ratio"
    return column, {name: Entry(tuple(values[name]), ratios[name]) for name in values}


def _condition(parameters: Mapping[str, Any]) -> tuple[int, str]:
    """Its place among the columns of a scene, and its words."""
    ratios = [str(ratio) for ratio in parameters.get("ratio", [])]
    if ratios == ["none"]:
        rank, words = 0, "mutual neighbours"
    elif len(ratios) > 1:
        rank, words = 1, f"best of {', '.join(ratios)}"
    else:
        rank, words = 2, f"ratio {''.join(ratios) or 'none'}"
    extras = [
        f"{key} {parameters[key]}"
        for key, usual in (("estimator", "degensac"), ("filter", "none"), ("matcher", "nn"))
        if parameters.get(key, usual) != usual
    ]
    if parameters.get("turned") is not None:
        rank, words = 3, f"turned, {words}"
    seeds = parameters.get("seeds")
    return rank, ", ".join([words, *extras, *(["one seed"] if seeds == 1 else [])])


def _format(title: str, columns: Mapping[Column, Mapping[str, Entry]]) -> Table:
    ordered = sorted(columns)
    best = {
        column: max(map(_mean, entries.values())) if len(entries) > 1 else np.inf
        for column, entries in columns.items()
    }
    rows = []
    for method in sorted(
        {name for entries in columns.values() for name in entries}, key=extractor_rank
    ):
        cells = []
        for column in ordered:
            entry = columns[column].get(method)
            cells.append("" if entry is None else _cell(entry, column, best[column]))
        rows.append([method, *cells])
    return Table(title, ["method", *map(_head, ordered)], rows)


def _cell(entry: Entry, column: Column, best: float) -> str:
    text = " / ".join(f"{value:.3f}" for value in entry.values)
    if _mean(entry) == best:
        text = f"**{text}**"
    return f"{text} {entry.ratio}" if "best of" in column.condition else text


def _head(column: Column) -> str:
    images = f", {column.num_images} images" if column.num_images else ""
    bags = f", bags of {column.bags}" if column.bags else ""
    return f"{column.scene.split('/')[-1]}{images}{bags}: {column.condition}"


def _mean(entry: Entry) -> float:
    return float(np.mean(entry.values))
