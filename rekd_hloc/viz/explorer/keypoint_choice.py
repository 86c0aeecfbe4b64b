"""The keypoints that a page shows: whole tracks of as many points as fit, and the best others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from jaxtyping import Float64, Int64

from rekd_hloc.geometry import TWO_PI
from rekd_hloc.types import Keypoints
from rekd_hloc.viz.explorer.observations import Observations
from rekd_hloc.viz.explorer.packing import NO_POINT, pack, pack_share

ALL_KEYPOINTS = 90_000
"""Keypoints on the page; whole tracks take at most :data:`TRACKS_SHARE` of them."""
TRACKS_SHARE = 0.8
MAX_ERROR_PX = 4.0
"""Errors are stored in 255 steps up to here."""
MAX_LOG2_SCALE = 5.0


@dataclass(frozen=True, eq=False)
class ChosenKeypoints:
    """Keypoints of one image as the page shows them, those with a 3-D point first.

    Attributes:
        xy: as shares of width and height.
        angle: radians.
        scale: see :class:`rekd_hloc.types.Keypoints`.
        error_px: reprojection error; 0 without a point.
        row: of the point on the page; -1 without one.
    """

    xy: Float64[np.ndarray, "chosen 2"]
    angle: Float64[np.ndarray, " chosen"]
    scale: Float64[np.ndarray, " chosen"]
    error_px: Float64[np.ndarray, " chosen"]
    row: Int64[np.ndarray, " chosen"]

    @classmethod
    def choose(
        cls,
        keypoints: Keypoints,
        size: tuple[int, int],
        seen: Observations | None,
        num_tracked: int,
        quota: int,
    ) -> Self:
        """Choose those of the first ``num_tracked`` points, and the best ``quota`` without one."""
        is_free = np.ones(len(keypoints), bool)
        tracked, error, row = np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64)
        if seen is not None:
            is_shown = seen.point < num_tracked
            tracked, error, row = (
                values[is_shown] for values in (seen.keypoint, seen.error_px, seen.point)
            )
            is_free[seen.keypoint] = False
        best = keypoints.score.argsort(descending=True, stable=True).numpy()
        best = best[is_free[best]][:quota]
        chosen = np.concatenate([tracked, best])
        return cls(
            (keypoints.xy.double().numpy()[chosen] + 0.5) / size,
            keypoints.angle.double().numpy()[chosen],
            keypoints.scale.double().numpy()[chosen],
            np.concatenate([error, np.zeros(len(best))]),
            np.concatenate([row, np.full(len(best), -1)]),
        )


def order_points(
    num_points: int, observed: Mapping[str, Observations], most: int
) -> tuple[Int64[np.ndarray, " point"], dict[str, Observations], int]:
    """Put a model's points into a fixed random order, of which any first part is an even sample.

    Returns:
        The points' old rows in the new order, the observations with new rows, and how many points
        have all their keypoints on the page.
    """
    order = np.random.default_rng(0).permutation(num_points)
    rank = np.empty(num_points, np.int64)
    rank[order] = np.arange(num_points)
    ranked = {name: replace(seen, point=rank[seen.point]) for name, seen in observed.items()}
    rows = np.concatenate([np.zeros(0, np.int64), *(seen.point for seen in ranked.values())])
    total = np.cumsum(np.bincount(rows, minlength=num_points))
    num_tracked = int(np.searchsorted(total, TRACKS_SHARE * ALL_KEYPOINTS, side="right"))
    return order, ranked, min(num_tracked, most)


def pack_keypoints(chosen: Sequence[ChosenKeypoints]) -> dict[str, Any]:
    """Return the keypoints of all images, one image after the other."""
    xy = np.concatenate([np.zeros((0, 2)), *(one.xy for one in chosen)])
    angle, scale, error, row = (
        np.concatenate([np.zeros(0), *(getattr(one, name) for one in chosen)])
        for name in ("angle", "scale", "error_px", "row")
    )
    log2 = np.log2(np.maximum(scale, 1e-6))
    return {
        "xy": pack_share(xy, "u2"),
        "angle": pack_share(np.remainder(angle, TWO_PI) / TWO_PI, "u1"),
        "scale": pack_share(0.5 + 0.5 * log2 / MAX_LOG2_SCALE, "u1"),
        "error": pack_share(np.nan_to_num(error, nan=MAX_ERROR_PX) / MAX_ERROR_PX, "u1"),
        "row": pack(np.where(row < 0, NO_POINT, row), "u4"),
        "maxError": MAX_ERROR_PX,
        "maxLog2Scale": MAX_LOG2_SCALE,
    }
