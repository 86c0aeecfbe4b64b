"""Charts of a reconstruction and of evaluations: curves, bars, a matrix of pairs, a map of cameras.

Each function returns a matplotlib figure that belongs to nobody else; :func:`write_figure` and
:func:`encode_figure` turn it into a file. No global state of matplotlib is touched.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rekd_hloc.files import write_bytes

COLORS = ("#2563a8", "#c8553d", "#3b8a5a", "#8a5fa8", "#b58900", "#4a9aa8", "#7a6a5a", "#a83b6a")
GREY = "#8a8f98"
DPI = 110
MAX_LABELS = 30
"""Images whose names stand beside a chart; more would overlap."""
MAX_POINTS = 6000


def draw_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
) -> Figure:
    """Curves by name, each a sequence of x and one of y, with a legend."""
    figure, axes = _new_figure(6.4, 3.8)
    for index, (name, (x, y)) in enumerate(curves.items()):
        axes.plot(x, y, color=COLORS[index % len(COLORS)], linewidth=1.8, label=name)
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    axes.grid(color="#e4e6ea", linewidth=0.8)
    if curves:
        axes.legend(frameon=False)
    return figure


def draw_bars(values: Mapping[str, float], *, x_label: str, title: str = "") -> Figure:
    """Horizontal bars by name, first on top, with their values."""
    figure, axes = _new_figure(6.4, 0.7 + 0.34 * max(len(values), 1))
    names, lengths = list(values), list(values.values())
    bars = axes.barh(range(len(names)), lengths, color=COLORS[0], height=0.62)
    axes.bar_label(bars, fmt="%.1f", padding=4, color="#333333")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel=x_label, title=title)
    axes.margins(x=0.12)
    axes.tick_params(axis="y", length=0)
    return figure


def draw_pair_matrix(names: Sequence[str], counts: Int64[np.ndarray, "image image"]) -> Figure:
    """How many inliers each pair has: a symmetric matrix, colours by the logarithm."""
    side = min(max(3.4, 0.36 * len(names) + 1.6), 8.0)
    figure, axes = _new_figure(side + 1.0, side)
    shown = np.where(counts > 0, np.log10(np.maximum(counts, 1)), np.nan)
    most = max(float(np.nanmax(shown, initial=0.0)), 1.0)
    picture = axes.imshow(shown, cmap="YlGnBu", vmin=0.0, vmax=most)
    bar = figure.colorbar(picture, ax=axes, shrink=0.8)
    steps = list(range(int(most) + 1))
    bar.set_ticks(steps, labels=[f"{10**k}" for k in steps])
    bar.set_label("inliers")
    ticks = list(range(len(names))) if len(names) <= MAX_LABELS else []
    axes.set_xticks(ticks, [_short(names[k]) for k in ticks], rotation=60, ha="right")
    axes.set_yticks(ticks, [_short(names[k]) for k in ticks])
    if len(names) <= 16:
        for row in range(len(names)):
            for column in range(len(names)):
                _write_count(axes, row, column, int(counts[row, column]), shown, most)
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
    """Points and cameras, looked at along the direction in which the cameras spread least.

    Args:
        points: of the sparse model.
        centres: of the cameras, in the frame of the points.
        directions: unit vectors in which the cameras look.
        names: of the cameras.
        true_centres: of a reference, moved into the same frame; drawn as circles.
    """
    figure, axes = _new_figure(7.0, 5.6)
    plane, origin = _choose_plane(centres, directions)
    flat, cameras = (points - origin) @ plane.T, (centres - origin) @ plane.T
    looks = directions @ plane.T
    kept = _crop(flat, cameras)
    axes.scatter(kept[:, 0], kept[:, 1], s=2, color=GREY, alpha=0.55, linewidths=0, label="points")
    reach = 0.08 * float(np.ptp(np.concatenate([kept, cameras]), axis=0).max(initial=1e-9))
    arrows: dict[str, Any] = {
        "angles": "xy",
        "scale_units": "xy",
        "scale": 1,
        "width": 0.004,
        "color": COLORS[0],
    }
    axes.quiver(*cameras.T, *(reach * looks).T, **arrows)
    axes.scatter(cameras[:, 0], cameras[:, 1], s=26, color=COLORS[0], label="cameras", zorder=3)
    if true_centres is not None:
        true = (true_centres - origin) @ plane.T
        ring: dict[str, Any] = {"s": 90, "facecolors": "none", "edgecolors": COLORS[1]}
        axes.scatter(true[:, 0], true[:, 1], label="true cameras", zorder=4, **ring)
    if len(names) <= MAX_LABELS:
        _write_names(axes, names, cameras - 0.7 * reach * looks)
    axes.margins(0.08)
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend(frameon=False, loc="best")
    axes.grid(color="#eef0f3", linewidth=0.8)
    return figure


def encode_figure(figure: Figure, suffix: str = ".png") -> bytes:
    """The bytes of a file; ``.svg`` is the same at every call for the same figure.

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


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure; the ending names the kind (``.png``, ``.svg``, ``.pdf``).

    Raises:
        ValueError: as :func:`encode_figure`.
        OSError: the file cannot be written.
    """
    write_bytes(path, encode_figure(figure, path.suffix))


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


def _write_count(
    axes: Axes, row: int, column: int, count: int, shown: Float64[np.ndarray, "..."], most: float
) -> None:
    if row == column:
        return
    dark = count > 0 and shown[row, column] > 0.6 * most
    color = "white" if dark else "#555555"
    axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=color)


def _write_names(axes: Axes, names: Sequence[str], places: Float64[np.ndarray, "name 2"]) -> None:
    for name, place in zip(names, places, strict=True):
        axes.annotate(
            _short(name), place, fontsize=7, ha="center", va="center", annotation_clip=False
        )


def _short(name: str) -> str:
    stem = Path(name).stem
    return stem if len(stem) <= 16 else f"{stem[:7]}…{stem[-7:]}"


def _choose_plane(
    centres: Float64[np.ndarray, "camera 3"], directions: Float64[np.ndarray, "camera 3"]
) -> tuple[Float64[np.ndarray, "2 3"], Float64[np.ndarray, "3"]]:
    """Two axes that hold most of the cameras' spread; the mean view direction goes up."""
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
) -> Float64[np.ndarray, "kept 2"]:
    """Points without the far ones, thinned evenly."""
    if len(flat) == 0:
        return flat
    low, high = np.quantile(flat, (0.02, 0.98), axis=0)
    margin = 0.1 * (high - low)
    low = np.minimum(low - margin, cameras.min(0, initial=np.inf))
    high = np.maximum(high + margin, cameras.max(0, initial=-np.inf))
    kept = flat[((flat >= low) & (flat <= high)).all(1)]
    return np.asarray(kept[:: max(1, len(kept) // MAX_POINTS)])
