"""Curves of evaluations as pictures: one method has one colour in all of them.

A label that ends in ``*`` is the method's curve after the orientation filter: same colour, dotted.
This project's methods are drawn thicker than their peers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator
from PIL import Image

from rekd_hloc.files import atomic_write

FILTERED = " *"
"""Ending of the label of a curve that is taken after the orientation filter."""
OWN_PREFIX = "rekd"
COLORS = (
    "#2563a8", "#c8553d", "#3b8a5a", "#8a5fa8", "#b58900", "#4a9aa8", "#7a6a5a", "#d1699a",
    "#8c9a2e", "#1c1c1c", "#7fb0e6", "#f0a48f", "#8fd0a8", "#c9aee0", "#e8cc6b", "#a5d8e0",
)  # fmt: skip
COLUMNS = 2
"""Panels side by side."""
PANEL_INCHES = (4.6, 3.1)
PANEL_DPI = 140
SHADES = 6
"""Steps from white to each colour of a panel picture."""
MAX_LEGEND_ROWS = 14


@dataclass(frozen=True)
class Plot:
    """Curves over one axis; the file is called after ``name``."""

    name: str
    title: str
    x_label: str
    y_label: str
    x: Sequence[float]
    curves: Mapping[str, Sequence[float]]


def draw(plot: Plot, folder: Path, colors: Mapping[str, str]) -> Path:
    """Draw curves to ``name.png`` and ``name.svg``; returns the path of the latter.

    Args:
        plot: what to draw.
        folder: where the pictures go.
        colors: of each method, see :func:`assign_colors`.
    """
    figure = Figure(figsize=(7.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    _draw_axes(axes, plot, colors)
    axes.set_title(plot.title, fontsize=10)
    if plot.curves:
        count = -(-len(plot.curves) // MAX_LEGEND_ROWS)
        figure.legend(loc="outside right upper", fontsize=8, frameon=False, ncols=count)
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("png", "svg"):
        _save(figure, folder / f"{plot.name}.{suffix}", dpi=120)
    return folder / f"{plot.name}.svg"


def draw_panels(plots: Sequence[Plot], path: Path) -> None:
    """Draw several plots into one PNG with one legend; a hundred kilobytes or less."""
    columns = max(min(len(plots), COLUMNS), 1)
    rows = -(-len(plots) // columns)
    figure = Figure(
        figsize=(columns * PANEL_INCHES[0] + 1.6, max(rows, 1) * PANEL_INCHES[1]),
        layout="constrained",
    )
    colors = assign_colors(plots)
    handles: dict[str, Any] = {}
    for number, plot in enumerate(plots, start=1):
        axes = figure.add_subplot(rows, columns, number)
        _draw_axes(axes, plot, colors)
        axes.set_title(plot.title, fontsize=9)
        lines = {str(line.get_label()): line for line in axes.get_lines()}
        handles |= {name: line for name, line in lines.items() if not name.endswith(FILTERED)}
    if handles:
        figure.legend(
            handles.values(), handles.keys(), loc="outside right upper", fontsize=8, frameon=False
        )
    save_png(figure, path)


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG of few colours, which makes a third of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(figure, path, dpi=PANEL_DPI)
    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(palette=_palette(), dither=Image.Dither.NONE)
        few.save(path, optimize=True)


def _palette() -> Image.Image:
    """Return all colours of curves and black, each blended with white in steps.

    Palettes that are made from a picture merge the colours of thin lines.
    """
    entries = [255, 255, 255]
    for color in (*COLORS, "#000000"):
        channels = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
        for step in range(1, SHADES + 1):
            entries += [round(255 + (value - 255) * step / SHADES) for value in channels]
    palette = Image.new("P", (1, 1))
    palette.putpalette(entries)
    return palette


def assign_colors(plots: Sequence[Plot]) -> dict[str, str]:
    """Return a colour for each method in the order of appearance, with and without filter."""
    names = dict.fromkeys(label.removesuffix(FILTERED) for plot in plots for label in plot.curves)
    return {name: COLORS[number % len(COLORS)] for number, name in enumerate(names)}


def _draw_axes(axes: Axes, plot: Plot, colors: Mapping[str, str]) -> None:
    for label, y in plot.curves.items():
        axes.plot(
            plot.x,
            y,
            ":" if label.endswith(FILTERED) else "-",
            color=colors[label.removesuffix(FILTERED)],
            linewidth=2.2 if label.startswith(OWN_PREFIX) else 1.2,
            label=label,
        )
    axes.set_xlabel(plot.x_label, fontsize=9)
    axes.set_ylabel(plot.y_label, fontsize=9)
    axes.grid(color="#e4e6ea", linewidth=0.8)
    if "degrees" in plot.x_label and max(plot.x) >= 90:
        axes.xaxis.set_major_locator(MultipleLocator(90))


def _save(figure: Figure, path: Path, dpi: int) -> None:
    # without dates and random ids the same figures give the same file
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with atomic_write(path) as scratch:
        figure.savefig(scratch, format=path.suffix[1:], dpi=dpi, metadata=metadata)
