"""Charts of a reconstruction: bars, a matrix of pairs, a map of cameras.

Each function returns a new matplotlib figure; :func:`encode_figure` turns it into a file. No global
state of matplotlib is touched.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE = "#2563a8"
RED = "#c8553d"
GREY = "#8a8f98"
DPI = 110
MAX_LABELS = 30
"""Images whose names stand beside a chart; more would overlap."""
MAX_WRITTEN_COUNTS = 16
"""Images whose pairs have their count written into the matrix."""
MAX_POINTS = 6000
"""Points of a model that are drawn, spread evenly over all."""


def draw_bars(values: Mapping[str, float], *, x_label: str, title: str = "") -> Figure:
    """Draw a horizontal bar for each name, the first on top, with its value."""
    figure, axes = _new_figure(6.4, 0.7 + 0.34 * max(len(values), 1))
    names, lengths = list(values), list(values.values())
    bars = axes.barh(range(len(names)), lengths, color=BLUE, height=0.62)
    axes.bar_label(bars, fmt="%.1f", padding=4, color="#333333")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel=x_label, title=title)
    axes.margins(x=0.12)
    axes.tick_params(axis="y", length=0)
    return figure


def draw_pair_matrix(names: Sequence[str], counts: Int64[np.ndarray, "image image"]) -> Figure:
    """Draw the number of inliers of each pair as a matrix whose colours grow with its logarithm."""
    side = min(max(3.4, 0.36 * len(names) + 1.6), 8.0)
    figure, axes = _new_figure(side + 1.0, side)
    digits = np.where(counts > 0, np.log10(np.maximum(counts, 1)), np.nan)
    most = max(float(np.nanmax(digits, initial=0.0)), 1.0)
    picture = axes.imshow(digits, cmap="YlGnBu", vmin=0.0, vmax=most)
    bar = figure.colorbar(picture, ax=axes, shrink=0.8)
    powers = list(range(int(most) + 1))
    bar.set_ticks(powers, labels=[f"{10**k}" for k in powers])
    bar.set_label("inliers")
    ticks = list(range(len(names))) if len(names) <= MAX_LABELS else []
    axes.set_xticks(ticks, [_short(names[k]) for k in ticks], rotation=60, ha="right")
    axes.set_yticks(ticks, [_short(names[k]) for k in ticks])
    if len(names) <= MAX_WRITTEN_COUNTS:
        _write_counts(axes, counts, is_dark=digits > 0.6 * most)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def draw_camera_map(
    points: Float64[np.ndarray, "point 3"],
    centres: Float64[np.ndarray, "camera 3"],
    directions: Float64[np.ndarray, "camera 3"],
    names: Sequence[str],
    true_centres: Float64[np.ndarray, "true 3"] | None = None,
) -> Figure:
    """Draw points and cameras, seen along the direction in which the cameras spread least.

    Args:
        points: of the sparse model.
        centres: of the cameras, in the frame of the points.
        directions: unit vectors in which the cameras look.
        names: of the cameras.
        true_centres: of a reference, moved into the same frame; drawn as circles.
    """
    figure, axes = _new_figure(7.0, 5.6)
    plane, origin = _choose_plane(centres, directions)
    cameras, looks = (centres - origin) @ plane.T, directions @ plane.T
    near = _crop((points - origin) @ plane.T, cameras)
    axes.scatter(near[:, 0], near[:, 1], s=2, color=GREY, alpha=0.55, linewidths=0)
    axes.scatter([], [], s=12, color=GREY, label="points")  # large enough for the legend
    reach = 0.08 * float(np.ptp(np.concatenate([near, cameras]), axis=0).max(initial=1e-9))
    _draw_cameras(axes, cameras, reach * looks)
    if true_centres is not None:
        true = (true_centres - origin) @ plane.T
        ring: dict[str, Any] = {"s": 90, "facecolors": "none", "edgecolors": RED}
        axes.scatter(true[:, 0], true[:, 1], label="true cameras", zorder=4, **ring)
    if len(names) <= MAX_LABELS:
        _write_names(axes, names, cameras - 0.7 * reach * looks)
    axes.margins(0.08)
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend(frameon=False, loc="best")
    axes.grid(color="#eef0f3", linewidth=0.8)
    return figure


def encode_figure(figure: Figure, suffix: str = ".png") -> bytes:
    """Return the bytes of an image file; ``.svg`` is the same at every call for the same figure.

    Raises:
        ValueError: a kind that matplotlib cannot write.
    """
    buffer = io.BytesIO()
    kind = suffix.removeprefix(".")
    metadata = {"Date": None} if kind == "svg" else None
    with rc_context({"svg.hashsalt": "rekd_hloc"}):
        figure.savefig(
            buffer, format=kind, dpi=DPI, metadata=metadata, bbox_inches="tight", pad_inches=0.08
        )
    return buffer.getvalue()


def _new_figure(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(11)
    axes.tick_params(labelsize=8, color=GREY)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    return figure, axes


def _write_counts(
    axes: Axes, counts: Int64[np.ndarray, "image image"], is_dark: Bool[np.ndarray, "image image"]
) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if row != column:
            color = "white" if is_dark[row, column] else "#555555"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=color)


def _draw_cameras(
    axes: Axes, xy: Float64[np.ndarray, "camera 2"], arrows: Float64[np.ndarray, "camera 2"]
) -> None:
    units: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1}
    axes.quiver(*xy.T, *arrows.T, color=BLUE, width=0.004, **units)
    axes.scatter(xy[:, 0], xy[:, 1], s=26, color=BLUE, label="cameras", zorder=3)


def _write_names(axes: Axes, names: Sequence[str], xy: Float64[np.ndarray, "name 2"]) -> None:
    axes.scatter(xy[:, 0], xy[:, 1], s=0)  # so that the axes reach around the names
    for name, position in zip(names, xy, strict=True):
        axes.annotate(
            _short(name), position, fontsize=7, ha="center", va="center", annotation_clip=False
        )


def _short(name: str) -> str:
    stem = Path(name).stem
    return stem if len(stem) <= 16 else f"{stem[:7]}…{stem[-7:]}"


def _choose_plane(
    centres: Float64[np.ndarray, "camera 3"], directions: Float64[np.ndarray, "camera 3"]
) -> tuple[Float64[np.ndarray, "2 3"], Float64[np.ndarray, "3"]]:
    """Return two axes that hold most of the cameras' spread, and the origin.

    The mean viewing direction goes up.
    """
    origin = centres.mean(0) if len(centres) else np.zeros(3)
    spread = np.concatenate([centres - origin, directions * _extent(centres, origin)])
    axes = np.linalg.svd(spread, full_matrices=True)[2][:2] if len(spread) else np.eye(3)[:2]
    look = axes @ directions.sum(0)
    length = float(np.linalg.norm(look))
    if length < 1e-9:
        return axes, origin
    up = look / length
    return np.stack([up[1] * axes[0] - up[0] * axes[1], up @ axes]), origin


def _extent(centres: Float64[np.ndarray, "camera 3"], origin: Float64[np.ndarray, "3"]) -> float:
    return float(np.linalg.norm(centres - origin, axis=1).max(initial=0.0))


def _crop(
    flat: Float64[np.ndarray, "point 2"], cameras: Float64[np.ndarray, "camera 2"]
) -> Float64[np.ndarray, "near 2"]:
    """Return the points without the far ones, thinned evenly."""
    if len(flat) == 0:
        return flat
    low, high = np.quantile(flat, (0.02, 0.98), axis=0)
    margin = 0.1 * (high - low)
    low = np.minimum(low - margin, cameras.min(0, initial=np.inf))
    high = np.maximum(high + margin, cameras.max(0, initial=-np.inf))
    near = flat[((flat >= low) & (flat <= high)).all(1)]
    return np.asarray(near[:: max(1, len(near) // MAX_POINTS)])
