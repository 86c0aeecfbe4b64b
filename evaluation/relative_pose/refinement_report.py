"""Which matches were refined, and how far they moved, by the pyramid level of their keypoints."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from evaluation.relative_pose.refined_store import RefinedStore
from evaluation.reporting.report import Cell, Table
from rekd_hloc.types import Pair

COLUMNS = ("method", "scale", "matches", "near %", "refined %", "shift px", "shift / scale")


@dataclass(frozen=True)
class LevelCount:
    """The matches whose keypoints in the second image lie in one octave of scale.

    Attributes:
        octave: log2 of the smallest scale; 0 begins at the image's own size.
        num_matches: of all pairs.
        num_near: of them, those near the loose geometry, which were tried.
        num_refined: of them, those that were refined.
        shift_px: median distance that the refined moved; None without any.
        relative_shift: the same in units of each keypoint's scale.
    """

    octave: int
    num_matches: int
    num_near: int
    num_refined: int
    shift_px: float | None
    relative_shift: float | None


def count_levels(path: Path, pairs: Iterable[Pair]) -> list[LevelCount]:
    """Count the matches of a file by octave, the finest first.

    Args:
        path: of refined positions.
        pairs: that are counted.

    Raises:
        ValueError: a pair is not in the file.
    """
    with RefinedStore(path) as store:
        refined = [store.read(*pair) for pair in pairs]
    if not refined:
        return []
    joined = {
        name: np.concatenate([getattr(one, name) for one in refined])
        for name in ("scale_b", "shift_px", "is_near", "is_refined")
    }
    octave = np.floor(np.log2(joined["scale_b"]) + 1e-3).astype(int)
    return [
        _count(int(level), {name: values[octave == level] for name, values in joined.items()})
        for level in np.unique(octave)
    ]


def refinement_table(title: str, levels: Mapping[str, Sequence[LevelCount]]) -> Table:
    """Return one row for each method and octave of scale."""
    rows: list[list[Cell]] = []
    for name, counts in levels.items():
        for count in counts:
            scale = f"{2.0**count.octave:g} to {2.0 ** (count.octave + 1):g}"
            rows.append([name, scale, *_cells(count)])
    return Table(title, COLUMNS, rows)


def describe_levels(counts: Sequence[LevelCount]) -> list[dict[str, Any]]:
    """Return the counts as JSON can hold them."""
    return [dict(vars(count)) for count in counts]


def _count(octave: int, values: Mapping[str, np.ndarray]) -> LevelCount:
    is_refined = values["is_refined"]
    shift: Float64[np.ndarray, " match"] = values["shift_px"][is_refined]
    relative = shift / values["scale_b"][is_refined]
    return LevelCount(
        octave=octave,
        num_matches=len(is_refined),
        num_near=int(values["is_near"].sum()),
        num_refined=int(is_refined.sum()),
        shift_px=float(np.median(shift)) if len(shift) else None,
        relative_shift=float(np.median(relative)) if len(shift) else None,
    )


def _cells(count: LevelCount) -> list[Cell]:
    def percent(part: int, whole: int) -> float | None:
        return 100 * part / whole if whole else None

    def rounded(value: float | None) -> str | None:
        return None if value is None else f"{value:.2f}"

    return [
        count.num_matches,
        percent(count.num_near, count.num_matches),
        percent(count.num_refined, count.num_near),
        rounded(count.shift_px),
        rounded(count.relative_shift),
    ]
