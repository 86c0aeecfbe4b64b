"""Bar charts of stored tables: one bar for each method and series, the best method on top."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.reporting.curves import COLORS, COLUMNS, OWN_PREFIX, save_png
from evaluation.reporting.report import Table

PANEL_WIDTH_INCHES = 4.6
TITLE_CHARACTERS = 28
"""Of a title's line: names of methods leave half of a panel."""
PLAIN = "upright"
"""The series that needs no legend where it is alone."""
GROUP_INCHES = 0.3
"""Height that a method takes."""
AROUND_INCHES = 1.1
"""Height that a panel's title, legend and axis take."""


@dataclass(frozen=True)
class Series:
    """Where a chart's values come from: one column of the tables of a title, or of its start."""

    label: str
    table: str
    column: str
    is_whole_title: bool = False

    def is_of(self, title: str) -> bool:
        """Say whether a table of that title has the values."""
        return title == self.table if self.is_whole_title else title.startswith(self.table)


@dataclass(frozen=True)
class BarPanel:
    """The values of each method by series; methods may lack some of them."""

    title: str
    x_label: str
    values: Mapping[str, Mapping[str, float]]
    is_best_low: bool = False
    """Whether the smallest value is the best: errors and seconds."""


def read_panel(
    title: str,
    x_label: str,
    series: Sequence[Series],
    tables: Sequence[Table],
    *,
    is_best_low: bool,
) -> BarPanel:
    """Return a panel of columns of tables; methods without any of the values are left out."""
    values: dict[str, dict[str, float]] = {}
    for one in series:
        for table in tables:
            if one.is_of(table.title) and one.column in table.columns:
                column = list(table.columns).index(one.column)
                for row in table.rows:
                    value = read_number(row[column])
                    if value is not None:
                        values.setdefault(str(row[0]), {})[one.label] = value
    return BarPanel(title, x_label, values, is_best_low)


def read_number(cell: str | float | None) -> float | None:
    """Return the number that a cell begins with, as in ``0.22 (0.20..0.23)``; None without one."""
    match = re.match(r"-?\d+(\.\d+)?", "" if cell is None else str(cell))
    return float(match[0]) if match else None


def draw_bars(panels: Sequence[BarPanel], path: Path) -> None:
    """Draw panels side by side into one PNG; this project's methods are set in bold.

    All bars are equally thick: a row of panels is as high as its largest needs.
    """
    shown = [panel for panel in panels if panel.values]
    columns = max(min(len(shown), COLUMNS), 1)
    rows = [shown[start : start + columns] for start in range(0, len(shown), columns)]
    places = [max(len(panel.values) for panel in row) for row in rows]
    heights = [AROUND_INCHES + GROUP_INCHES * count for count in places]
    figure = Figure(figsize=(columns * PANEL_WIDTH_INCHES, sum(heights)), layout="constrained")
    if rows:
        grid = figure.add_gridspec(len(rows), columns, height_ratios=heights)
        for number, (row, count) in enumerate(zip(rows, places, strict=True)):
            for column, panel in enumerate(row):
                _draw_panel(figure.add_subplot(grid[number, column]), panel, count)
    save_png(figure, path)


def _draw_panel(axes: Axes, panel: BarPanel, places: int) -> None:
    """Draw a panel with room for so many methods."""
    labels = list(dict.fromkeys(label for values in panel.values.values() for label in values))
    sign = 1 if panel.is_best_low else -1
    worst = np.inf
    methods = sorted(
        panel.values, key=lambda m: sign * panel.values[m].get(labels[0], sign * worst)
    )
    height = 0.8 / len(labels)
    largest = max(value for values in panel.values.values() for value in values.values())
    number_format = "%.3f" if largest <= 1 else "%.1f"
    for index, label in enumerate(labels):
        known = [(at, panel.values[m][label]) for at, m in enumerate(methods)
                 if label in panel.values[m]]  # fmt: skip
        at = [place + (index - (len(labels) - 1) / 2) * height for place, _ in known]
        bars = axes.barh(at, [v for _, v in known], height * 0.92, color=COLORS[index], label=label)
        axes.bar_label(bars, fmt=number_format, padding=2, fontsize=6)
    axes.set_yticks(range(len(methods)), methods, fontsize=8)
    for tick, method in zip(axes.get_yticklabels(), methods, strict=True):
        tick.set_fontweight("bold" if method.startswith(OWN_PREFIX) else "normal")
    axes.set_ylim(places - 0.5, -0.5)
    axes.margins(x=0.12)
    axes.set_xlabel(panel.x_label, fontsize=9)
    has_legend = labels != [PLAIN]
    title = textwrap.fill(panel.title, TITLE_CHARACTERS)
    axes.set_title(title, fontsize=8, loc="left", pad=18 if has_legend else 6)
    axes.spines[["top", "right"]].set_visible(False)
    if has_legend:
        axes.legend(fontsize=7, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
