"""The table of an hloc report: a line for each row, mean and deviation over the seeds."""

from collections.abc import Iterable
from typing import Any

import numpy as np

Record = dict[str, Any]
COLUMNS: dict[str, tuple[str, str, str]] = {
    "registered": ("model", "registered", ".1f"),
    "points": ("model", "num_points", ".0f"),
    "observations": ("model", "num_observations", ".0f"),
    "reprojection px": ("model", "reprojection_px", ".3f"),
    "noise px": ("model", "noise_px", ".2f"),
    "rotation deg": ("model", "rotation_deg", ".2f"),
    "centre %": ("model", "center_rel", ".2%"),
    "matches": ("matches", "num_matches", ".0f"),
    "inliers": ("matches", "num_inliers", ".0f"),
    "inlier ratio": ("matches", "inlier_ratio", ".2f"),
    "kept inliers": ("filter", "kept_inliers", ".1%"),
    "removed wrong": ("filter", "removed_wrong", ".1%"),
    "match s": ("", "match_seconds", ".1f"),
    "verify s": ("", "verify_seconds", ".1f"),
    "map s": ("", "map_seconds", ".1f"),
}
"""Heading, and where the value is in a result and how it is written."""


def format_table(record: Record) -> str:
    """Markdown with what the run was made of, and a table for upright and turned photos."""
    about = {key: value for key, value in record.items() if key != "results"}
    lines = [f"* {key}: {value}" for key, value in about.items()]
    for photos in dict.fromkeys(result["photos"] for result in record["results"]):
        own = [result for result in record["results"] if result["photos"] == photos]
        seeds = sorted({result["seed"] for result in own})
        lines += ["", f"{photos} photos, seeds {', '.join(map(str, seeds))}:", ""]
        lines += [_line(["row", *COLUMNS]), _line(["---"] * (1 + len(COLUMNS)))]
        for row in dict.fromkeys(result["row"] for result in own):
            runs = [result for result in own if result["row"] == row]
            cells = [_cell(runs, *place) for place in COLUMNS.values()]
            lines.append(_line([row, *cells]))
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(runs: list[Record], part: str, name: str, form: str) -> str:
    """Mean, and deviation where the seeds differ; runs without the value do not count."""
    parts = [(run[part] or {}) if part else run for run in runs]
    values = [owner[name] for owner in parts if owner.get(name) is not None]
    if not values:
        return "-"
    text = format(float(np.mean(values)), form)
    if np.std(values) > 0:
        text += f" ± {format(float(np.std(values)), form)}"
    return text if len(values) == len(runs) else f"{text} ({len(values)} of {len(runs)})"
