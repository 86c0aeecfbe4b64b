"""The report of a run, read for its page: what is of another kind than ours is left out.

A ``report.json`` may come from a stranger, from another version, or from a disk that lost a part.
"""

import logging
import math
from pathlib import Path
from typing import Any

from rekd_hloc.json_text import read_json

logger = logging.getLogger(__name__)

LARGEST = 1e15
"""Of a number in a report; our largest are bytes and counts of matches."""
ERRORS = {"median": float, "max": float, "mean": float}
FORMS: dict[str, Any] = {
    **dict.fromkeys(("num_images", "num_registered", "num_models", "num_attempts"), int),
    **dict.fromkeys(("num_points3D", "num_observations", "num_keypoints", "seed"), int),
    **dict.fromkeys(("mean_track_length", "mean_reprojection_error_px", "peak_memory_mib"), float),
    **dict.fromkeys(("diagnosis", "alignment_failure"), str),
    **dict.fromkeys(("rotation_error_deg", "center_error_rel"), ERRORS),
    **dict.fromkeys(("weights", "versions", "skipped"), {"*": str}),
    "unregistered": [str],
    **dict.fromkeys(("seconds", "work_seconds"), {"*": float}),
    "configuration": {"preset": str, "pairs": str, "features": str, "matches": str},
    "pairs": {
        **dict.fromkeys(("num_pairs", "num_verified", "num_matches", "num_inliers"), int),
        "weakest": [{"images": [str], "matches": int, "inliers": int}],
    },
}
"""What the page reads: a kind, a list of one, or a mapping of keys to them; ``*`` is any key."""


def read_report(output: Path) -> dict[str, Any]:
    """Return what is in an output folder's ``report.json``, without parts of a wrong kind.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged; the message names it.
    """
    path = output / "report.json"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; run `rekd-hloc reconstruct` into {output} first")
    try:
        report = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(report, dict):
        raise ValueError(f"{path} holds no report")
    dropped: list[str] = []
    sound: dict[str, Any] = _keep(report, FORMS, "", dropped)
    if dropped:
        logger.warning(
            "%s: %s not of the kind that a run writes; left out", path, ", ".join(dropped[:5])
        )
    return sound


def _keep(value: Any, form: Any, place: str, dropped: list[str]) -> Any:  # noqa: ANN401
    """Return what fits the form, and note the rest; None where nothing does."""
    if value is None:
        return None
    if isinstance(form, dict) and isinstance(value, dict):
        kept = {}
        for key, item in value.items():
            inner = form.get(key, form.get("*"))
            kept[key] = item if inner is None else _keep(item, inner, f"{place}{key}.", dropped)
        return {key: item for key, item in kept.items() if item is not None}
    if isinstance(form, list) and isinstance(value, list):
        items = [_keep(item, form[0], place, dropped) for item in value]
        return [item for item in items if item is not None]
    if form is str and isinstance(value, str):
        return value
    if form in (int, float) and _is_number(value, form):
        return value
    dropped.append(repr(place.removesuffix(".")))
    return None


def _is_number(value: Any, kind: type) -> bool:  # noqa: ANN401
    kinds = (int,) if kind is int else (int, float)
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and abs(value) < LARGEST
