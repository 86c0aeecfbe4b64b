"""The table of a study: means over scenes of means over pairs, with paired standard errors."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from evaluation.metrics.pose import mean_average_accuracy
from training.selection.scoring import PairScore

Scores = dict[tuple[str, str], tuple[list[str], list[PairScore]]]
"""By choice and matching: the scene of each pair, and its score."""
Value = Callable[[PairScore], float]


def accuracy_of(score: PairScore) -> float:
    """Return what one pair adds to mAA(10)."""
    return mean_average_accuracy([score.pose_error_deg])


COLUMNS: tuple[tuple[str, str, Value], ...] = (
    ("right, mutual", "mutual", lambda s: s.quality.num_right),
    ("precision, mutual", "mutual", lambda s: 100 * s.quality.precision),
    ("right, filtered", "filtered", lambda s: s.quality.num_right),
    ("on line, filtered", "filtered", lambda s: s.quality.num_on_line),
    ("mAA(10)", "filtered", lambda s: 100 * accuracy_of(s)),
)
"""Heading, matching and value of each column of the table."""


def to_table(scores: Scores, baseline: str) -> str:
    """Return the table: the baseline's means, and the others' differences from it.

    Poses are left out where none was estimated. The figure after ``±`` is the standard error of the
    mean difference over pairs.
    """
    names = list(dict.fromkeys(name for name, _ in scores))
    posed = any(math.isfinite(s.pose_error_deg) for _, rows in scores.values() for s in rows)
    columns = COLUMNS if posed else COLUMNS[:-1]
    head = "| choice | " + " | ".join(title for title, _, _ in columns) + " |"
    lines = [head, "|---" * (len(columns) + 1) + "|"]
    for name in names:
        cells = [_cell(scores, name, baseline, of, value) for _, of, value in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(scores: Scores, name: str, baseline: str, matching: str, value: Value) -> str:
    scenes, rows = scores[name, matching]
    own = np.array([value(row) for row in rows])
    if name == baseline or (baseline, matching) not in scores:
        return f"{mean_over_scenes(scenes, own):.1f}"
    difference = own - [value(row) for row in scores[baseline, matching][1]]
    error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else 0.0
    mean = mean_over_scenes(scenes, difference)
    return f"{mean_over_scenes(scenes, own):.1f} ({mean:+.1f} ± {error:.1f})"


def mean_over_scenes(scenes: Sequence[str], values: Sequence[float] | np.ndarray) -> float:
    """Return the mean over scenes of the mean over each one's pairs."""
    of_scene = np.asarray(scenes)
    every = np.asarray(values)
    means = [every[of_scene == name].mean() for name in dict.fromkeys(scenes)]
    return float(np.mean(means)) if means else 0.0
