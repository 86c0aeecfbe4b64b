"""Seconds of the run that did the work, where a later one found it done.

A run that goes on from finished features takes no time to extract. What a reader wants to know is
what they took, so the report carries the seconds of earlier runs on.
"""

from collections.abc import Mapping
from pathlib import Path

from rekd_hloc.json_text import read_json

WORK_SECONDS = "work_seconds"
"""Key of the report beside ``seconds``, which are those of the last run."""


def read_work_seconds(report_path: Path) -> dict[str, float]:
    """Return seconds of each stage from a report that is there; empty if there is none."""
    try:
        report = read_json(report_path)
    except (OSError, ValueError):
        return {}
    seconds = report.get(WORK_SECONDS, report.get("seconds")) if isinstance(report, dict) else None
    if not isinstance(seconds, dict):
        return {}
    return {name: float(s) for name, s in seconds.items() if isinstance(s, int | float) and s >= 0}


def carry_on(
    seconds: Mapping[str, float], shares_found: Mapping[str, float], before: Mapping[str, float]
) -> dict[str, float]:
    """Return seconds of each stage with those of earlier runs whose work was found done.

    Args:
        seconds: of this run, by stage.
        shares_found: how much of a stage's work was there already, 0 to 1; 0 where not told.
        before: of the runs before. What a run took that was killed is not known.
    """
    work = {}
    for name, taken in seconds.items():
        share, earlier = shares_found.get(name, 0.0), before.get(name, 0.0)
        is_all_found = share >= 1.0 and earlier > 0.0
        work[name] = earlier if is_all_found else taken + (earlier if share > 0.0 else 0.0)
    return {**work, "total": sum(work.values())}
