"""The chart that the README shows, drawn from the stored results of the pose benchmark.

``python -m evaluation.reporting.benchmark_charts`` reads ``docs/results/imc.csv`` and writes
``docs/figures/readme-stereo.png``: stereo accuracy with upright and with rotated images.
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from evaluation.command_line import exit_status, make_parser
from rekd_hloc.files import write_bytes
from rekd_hloc.viz.charts import encode_figure

ROOT = Path(__file__).parents[2]
DATA = "phototourism/reichstag, 74 images, 200 pairs"
LABELS = {
    "rekd-fast + refinement": "rekd-fast",
    "rootsift": "RootSIFT",
    "aliked-n16+lightglue": "ALIKED + LightGlue",
}
"""The methods of the chart, from top to bottom, each with the matching that suits it best."""
FILTERS = {"rekd-fast + refinement": "consensus", "rootsift": "density"}
"""Filters of the rows that count, where a method has several."""
OWN = ("rekd-fast",)
NUM_KEYPOINTS = 2048
BAR_HEIGHT = 0.38
UPRIGHT_COLOR, ROTATED_COLOR = "#aab0ba", "#c8553d"


def read_stereo(path: Path) -> dict[str, dict[bool, float]]:
    """Return mAA(10) of each method, upright (False) and rotated (True).

    Raises:
        FileNotFoundError: there are no stored results.
        ValueError: a method of the chart has no value.
    """
    values: dict[str, dict[bool, float]] = {name: {} for name in LABELS}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name = row["method"]
            if name not in values or not _is_wanted(row, FILTERS.get(name, "")):
                continue
            values[name][bool(_cell(row, "rotated", "turned"))] = float(row["mAA(10)"])
    missing = [name for name, found in values.items() if len(found) < 2]
    if missing:
        raise ValueError(f"{path} lacks upright or rotated values of {', '.join(missing)}")
    return values


def draw_stereo(values: Mapping[str, Mapping[bool, float]]) -> Figure:
    """Draw two bars for each method."""
    figure = Figure(figsize=(7.2, 2.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    series = (
        (False, "upright photos", UPRIGHT_COLOR),
        (True, "every second photo rotated", ROTATED_COLOR),
    )
    for index, (is_rotated, label, color) in enumerate(series):
        rows = [row + (index - 0.5) * BAR_HEIGHT for row in range(len(LABELS))]
        lengths = [values[name][is_rotated] for name in LABELS]
        bars = axes.barh(rows, lengths, BAR_HEIGHT * 0.94, color=color, label=label)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8, color="#333333")
    _set_axes(axes)
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    return figure


def _set_axes(axes: Axes) -> None:
    axes.set_yticks(range(len(LABELS)), list(LABELS.values()), fontsize=9)
    for tick in axes.get_yticklabels():
        tick.set_fontweight("bold" if tick.get_text() in OWN else "normal")
    axes.set_ylim(len(LABELS) - 0.5, -0.5)
    axes.set_xlim(0, 0.9)
    axes.set_xlabel("pose accuracy, mAA(10)", fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)


def _is_wanted(row: Mapping[str, str], filter_name: str) -> bool:
    """Say whether a row is of the chart's protocol, photos, budget and filter, if it names one."""
    return (
        row["protocol"] == "imc2021-stereo"
        and row["data"].startswith(DATA)
        and _cell(row, "num_keypoints") == str(NUM_KEYPOINTS)
        and filter_name in ("", _cell(row, "filter"))
        and bool(row["mAA(10)"])  # tables of refined matches have none
    )


def _cell(row: Mapping[str, str], *names: str) -> str:
    """Return the first of these parameters that a row has; the table of poses prefixes them."""
    for name in names:
        for column in (f"parameters.{name}", name):
            if row.get(column):
                return row[column]
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    parser = make_parser("evaluation.reporting.benchmark_charts", __doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results" / "imc.csv")
    out = ROOT / "docs" / "figures" / "readme-stereo.png"
    parser.add_argument("--out", type=Path, default=out)
    options = parser.parse_args(argv)

    def work() -> None:
        write_bytes(options.out, encode_figure(draw_stereo(read_stereo(options.results))))

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
