"""Tables and curves over rotation, size and blur."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from evaluation.reporting.curves import FILTERED, Plot
from evaluation.reporting.report import Cell, Table
from evaluation.robustness.measure import THRESHOLDS_PX, RobustnessResult
from evaluation.robustness.transforms import UNITS, TransformKind

PRECISION = "precision"
"""The table of refined matches."""
Results = Mapping[str, Sequence[RobustnessResult]]
Read = Callable[[RobustnessResult], float | None]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _mma_3px(row: RobustnessResult) -> float | None:
    return 100 * row.mma[1]


def _mma_3px_filtered(row: RobustnessResult) -> float | None:
    return None if row.mma_filtered is None else 100 * row.mma_filtered[1]


def _angle_accuracy(row: RobustnessResult) -> float | None:
    return None if row.angle_accuracy is None else 100 * row.angle_accuracy


METRICS: dict[str, dict[str, tuple[Read, Callable[[Sequence[float]], float]]]] = {
    "keypoints": {
        "rep": (lambda row: 100 * row.repeatability, min),
        "rep 1.5 px": (lambda row: 100 * row.precise_repeatability, min),
    },
    "matches": {
        "MMA@3": (_mma_3px, min),
        "filter: MMA@3": (_mma_3px_filtered, min),
        "matches": (lambda row: row.num_matches, min),
    },
    PRECISION: {
        "MMA@0.5": (lambda row: _percent(row.mma_half_px), min),
        "MMA@1": (lambda row: 100 * row.mma[0], min),
        "filter: MMA@0.5": (lambda row: _percent(row.mma_half_px_filtered), min),
        "filter: MMA@1": (
            lambda row: None if row.mma_filtered is None else 100 * row.mma_filtered[0],
            min,
        ),
    },
    "angles": {
        "within 15 deg": (_angle_accuracy, min),
        "median error, deg": (lambda row: row.angle_median_deg, max),
    },
}
"""For each table the metrics of its columns, how they are read, and which value is the worst."""


def robustness_tables(
    kind: TransformKind, results: Results, *, precise: bool = False
) -> list[Table]:
    """Return each metric at no rotation, blur or change of size, at its worst, and on average.

    Args:
        kind: of the transform.
        results: of each method.
        precise: whether to make the table of shares within half a pixel and one pixel too.
    """
    start = 1 if kind == "scale" else 0
    tables = []
    for title, metrics in METRICS.items():
        if title == PRECISION and not precise:
            continue
        parts = (f"at {start}", "worst", "mean")
        columns = ["method", *(f"{name} {part}" for name in metrics for part in parts)]
        rows: list[list[Cell]] = []
        for name, measured in results.items():
            origin = min(measured, key=lambda r: abs(r.value - start))
            row: list[Cell] = [name]
            for read, worst in metrics.values():
                values = [value for value in map(read, measured) if value is not None]
                mean = float(np.mean(values)) if values else None
                row += [read(origin), worst(values), mean] if values else [None] * 3
            if any(cell is not None for cell in row[1:]):
                rows.append(row)
        if rows:
            tables.append(Table(f"{title}: protocol {kind}", columns, rows))
    return tables


def roto360_table(results: Results) -> Table:
    """Return MMA at 3, 5 and 10 px and matches, means over all rotations."""
    columns = ["method", "MMA@3", "MMA@5", "MMA@10", "matches"]
    columns += [f"filter: {name}" for name in columns[1:]]
    rows: list[list[Cell]] = []
    for name, measured in results.items():
        row: list[Cell] = [name]
        row += [100 * float(np.mean([r.mma[i] for r in measured])) for i in (1, 2, 3)]
        row.append(float(np.mean([r.num_matches for r in measured])))
        filtered = [r.mma_filtered for r in measured if r.mma_filtered is not None]
        counts = [r.num_matches_filtered for r in measured if r.num_matches_filtered is not None]
        if filtered:
            row += [100 * float(np.mean([values[i] for values in filtered])) for i in (1, 2, 3)]
            row.append(float(np.mean(counts)))
        else:
            row += [None] * 4
        rows.append(row)
    return Table("protocol roto360", columns, rows)


def make_value_rows(protocol: str, results: Results) -> tuple[list[str], list[list[Cell]]]:
    """Return header and rows of the CSV: one row for each method and value of the transform."""
    thresholds = [f"{threshold:.0f}" for threshold in THRESHOLDS_PX.tolist()]
    metrics = {name: read for group in METRICS.values() for name, (read, _) in group.items()}
    plain = {name: read for name, read in metrics.items() if "MMA" not in name}
    plain["filter: matches"] = lambda row: row.num_matches_filtered
    plain["keypoints"] = lambda row: row.num_keypoints
    header = ["protocol", "method", "value", *plain]
    header += [f"{stem}@{t}" for stem in ("MMA", "filter: MMA") for t in thresholds]
    rows: list[list[Cell]] = []
    for name, measured in results.items():
        for row in measured:
            filtered: Sequence[float | None] = row.mma_filtered or [None] * len(thresholds)
            shares = [*row.mma, *filtered]
            values = [read(row) for read in plain.values()]
            accuracy = [None if share is None else 100 * share for share in shares]
            rows.append([protocol, name, row.value, *values, *accuracy])
    return header, rows


def make_plots(kind: TransformKind, results: Results) -> list[Plot]:
    """Return each metric as a curve over the transform."""
    curves_of = {
        ("repeatability", "repeatability at 3 px, %"): {"": ("keypoints", "rep")},
        ("precise-repeatability", "repeatability at 1.5 px, %"): {"": ("keypoints", "rep 1.5 px")},
        ("mma", "matching accuracy at 3 px, %"): {
            "": ("matches", "MMA@3"),
            FILTERED: ("matches", "filter: MMA@3"),
        },
        ("angle-accuracy", "angles within 15 degrees, %"): {"": ("angles", "within 15 deg")},
        ("angle-error", "median angle error, degrees"): {"": ("angles", "median error, deg")},
        ("matches", "matches"): {"": ("matches", "matches")},
    }
    plots = []
    for (name, label), sources in curves_of.items():
        curves: dict[str, list[float]] = {}
        for method, measured in results.items():
            for ending, (group, metric) in sources.items():
                values = [METRICS[group][metric][0](row) for row in measured]
                known = [value for value in values if value is not None]
                if known and len(known) == len(values):
                    curves[method + ending] = known
        x = [row.value for row in next(iter(results.values()))]
        starred = " (dotted: orientation filter)" if len(sources) > 1 else ""
        if curves:
            title = f"protocol {kind}: {label.split(',')[0]}{starred}"
            plots.append(Plot(f"{kind}-{name}", title, UNITS[kind], label, x, curves))
    return plots
