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
DATA = "phototourism/reichstag, 25 images, 200 pairs"
LABELS = {
    "rekd": "rekd",
    "rekd-fast": "rekd-fast",
    "rootsift": "RootSIFT",
    "aliked-n16rot": "ALIKED-n16rot",
    "disk": "DISK",
    "keynet": "Key.Net + our HardNet",
}
"""The methods of the chart, from top to bottom."""
OWN = ("rekd", "rekd-fast")
BUDGETS = (2048, 8000)
BAR_HEIGHT = 0.38
UPRIGHT_COLOR, ROTATED_COLOR = "#aab0ba", "#c8553d"


def read_stereo(path: Path, num_keypoints: int) -> dict[str, dict[bool, float]]:
    """Return mAA(10) of each method, upright (False) and rotated (True).

    Only matches without a filter count.
    Of several upright records of a method, the one that chose its ratio test on other pairs counts.

    Raises:
        FileNotFoundError: there are no stored results.
        ValueError: a method of the chart has no value.
    """
    values: dict[str, dict[bool, float]] = {name: {} for name in LABELS}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name = row["method"]
            is_wanted = row["protocol"] == "imc2021-stereo" and row["data"].startswith(DATA)
            is_wanted &= _cell(row, "filter") in ("", "none")
            if not is_wanted or name not in values or not _has_budget(row, num_keypoints):
                continue
            is_rotated = bool(_cell(row, "rotated", "turned"))
            chose = "," in _cell(row, "ratio")
            if is_rotated or chose:
                values[name][is_rotated] = float(row["mAA(10)"])
    missing = [name for name, found in values.items() if len(found) < 2]
    if missing:
        raise ValueError(f"{path} lacks upright or rotated values of {', '.join(missing)}")
    return values


def draw_stereo(results: Mapping[int, Mapping[str, Mapping[bool, float]]]) -> Figure:
    """Draw one panel for each number of keypoints, two bars for each method."""
    figure = Figure(figsize=(8.6, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for axes, (num_keypoints, values) in zip(panels, results.items(), strict=True):
        _draw_panel(axes, values)
        axes.set_title(f"{num_keypoints:,} keypoints", fontsize=10, loc="left")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    return figure


def _draw_panel(axes: Axes, values: Mapping[str, Mapping[bool, float]]) -> None:
    series = (
        (False, "upright photos", UPRIGHT_COLOR),
        (True, "every second photo rotated", ROTATED_COLOR),
    )
    for index, (is_rotated, label, color) in enumerate(series):
        rows = [row + (index - 0.5) * BAR_HEIGHT for row in range(len(LABELS))]
        lengths = [values[name][is_rotated] for name in LABELS]
        bars = axes.barh(rows, lengths, BAR_HEIGHT * 0.94, color=color, label=label)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=7.5, color="#333333")
    axes.set_yticks(range(len(LABELS)), list(LABELS.values()), fontsize=9)
    for tick in axes.get_yticklabels():
        tick.set_fontweight("bold" if tick.get_text() in OWN else "normal")
    axes.set_ylim(len(LABELS) - 0.5, -0.5)
    axes.set_xlim(0, 0.85)
    axes.set_xlabel("pose accuracy, mAA(10)", fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)


def _has_budget(row: Mapping[str, str], num_keypoints: int) -> bool:
    return _cell(row, "num_keypoints") == str(num_keypoints)


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
        results = {count: read_stereo(options.results, count) for count in BUDGETS}
        write_bytes(options.out, encode_figure(draw_stereo(results)))

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
