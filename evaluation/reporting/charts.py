"""The charts of a part: bars of its main metric, and its curves where it has any."""

import re
from collections.abc import Sequence
from pathlib import Path

from evaluation.reporting.bars import BarPanel, draw_bars, read_number, read_panel
from evaluation.reporting.curves import draw_panels
from evaluation.reporting.plan import Part
from evaluation.reporting.records import Record

POSE_METRIC = "mAA(10)"
ASIDE = re.compile(r" \([^)]*\)|;.*")
"""What the description of data says beside its counts: calibrations, and rotated images."""
BAG_SIZE = re.compile(r"\d+ (?:bags )?of (\d+)")
"""In the description of bags; how many there are of each size does not make another panel."""


def draw_charts(part: Part, records: Sequence[Record], folder: Path) -> None:
    """Draw ``NAME.png`` from a part's tables, and ``NAME-curves.png`` from its curves."""
    panels = pose_panels(records)
    if part.chart is not None:
        chart = part.chart
        panels = [
            read_panel(record.data, chart.x_label, chart.series, record.tables,
                       is_best_low=chart.is_best_low)
            for record in records
        ]  # fmt: skip
    if any(panel.values for panel in panels):
        draw_bars(panels, folder / f"{part.name}.png")
    if plots := [plot for record in records for plot in record.plots]:
        draw_panels(plots, folder / f"{part.name}-curves.png")


def pose_panels(records: Sequence[Record]) -> list[BarPanel]:
    """Return one panel for each task, scene, number of keypoints and of pairs, and sizes of bags.

    Each has upright and rotated images.

    Essential matrices, which know the intrinsics, have panels of their own.

    Methods with a filter of matches are bars of their own.
    Methods that chose among several ratio tests count before those with one for all, and later
    records before earlier ones. Multiview values are means over the sizes of bags.

    Args:
        records: of :mod:`evaluation.imc`; others are passed over.
    """
    values: dict[str, dict[str, dict[str, float]]] = {}
    chosen = [record for record in records if "num_keypoints" in record.parameters]
    for record in sorted(chosen, key=lambda record: len(record.parameters.get("ratio") or ())):
        is_rotated = record.parameters.get("rotated", record.parameters.get("turned")) is not None
        task, data = record.protocol.removeprefix("imc2021-"), ASIDE.sub("", record.data)
        scene, *counts = data.split("/")[-1].split(", ")
        keypoints = f"{record.parameters['num_keypoints']} keypoints"
        if sizes := BAG_SIZE.findall(data):
            counts = [counts[0], f"bags of {', '.join(sizes)}"]
        title = ", ".join([task, scene, keypoints, *counts])
        if str(record.parameters.get("estimator", "")).startswith("essential"):
            title += ", known intrinsics"
        series = "rotated" if is_rotated else "upright"
        suffix = "" if record.filter == "none" else f", {record.filter}"
        for name, value in _read_poses(record).items():
            method = name + suffix
            values.setdefault(title, {}).setdefault(method, {})[series] = value
    return [BarPanel(title, POSE_METRIC, values[title]) for title in sorted(values)]


def _read_poses(record: Record) -> dict[str, float]:
    values: dict[str, float] = {}
    for table in record.tables:
        at = {name: index for index, name in enumerate(table.columns)}
        for row in table.rows:
            value = read_number(row[at[POSE_METRIC]]) if POSE_METRIC in at else None
            if value is not None and ("bag size" not in at or row[at["bag size"]] == "mean"):
                values[str(row[at["method"]])] = value
    return values
