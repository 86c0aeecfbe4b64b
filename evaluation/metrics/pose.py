"""Errors of relative poses, and the metrics that benchmarks make of them.

A relative pose is ``x_b = rotation @ x_a + translation`` between the frames of two cameras; from
images alone the translation is known as a direction only, and without its sign. Errors are degrees;
a pair whose pose could not be estimated has an infinite error and counts as wrong everywhere.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from rekd_hloc.sfm.alignment import rotation_angle_deg

Rotation = Float64[np.ndarray, "3 3"]
Vector = Float64[np.ndarray, " 3"]
RelativePose = tuple[Rotation, Vector]
"""Rotation and translation. A plain tuple and no ``pycolmap.Rigid3d``, because the numbers of
calibration files stay as they are (a quaternion rounds them), arrays go to other processes, and the
metrics need no pycolmap."""

LEVEL = 0.95
"""Share of the draws inside the interval of :func:`paired_difference`."""
FAILED = float("inf")
"""Error of a pair without an estimated pose."""
NUM_BINS = 10
"""mAA(10) is the mean of the accuracies at 1, 2, ... 10 degrees."""
AUC_THRESHOLDS_DEG = (5.0, 10.0, 20.0)


def relative_pose(
    rotation_a: Rotation, translation_a: Vector, rotation_b: Rotation, translation_b: Vector
) -> RelativePose:
    """Return rotation and translation from the frame of camera a to that of camera b.

    Args:
        rotation_a: of camera a, from the world: ``x_a = rotation_a @ X + translation_a``.
        translation_a: of camera a.
        rotation_b: of camera b, likewise.
        translation_b: of camera b.
    """
    rotation = rotation_b @ rotation_a.T
    return rotation, translation_b - rotation @ translation_a


def rotation_error_deg(estimated: Rotation, true: Rotation) -> float:
    """Return the angle in degrees between two rotations, in [0, 180]."""
    return rotation_angle_deg(estimated, true)


def direction_error_deg(estimated: Vector, true: Vector) -> float:
    """Return the angle in degrees between two directions regardless of sign, in [0, 90].

    It is 90 where one of them has no length: a direction that is not known is not right.
    """
    lengths = float(np.linalg.norm(estimated)) * float(np.linalg.norm(true))
    if not np.isfinite(lengths) or lengths == 0:
        return 90.0
    sine = float(np.linalg.norm(np.cross(estimated, true)))
    return float(np.degrees(np.arctan2(sine, abs(float(estimated @ true)))))


def pose_error_deg(estimated: RelativePose | None, true: RelativePose) -> float:
    """Return the larger of the two errors in degrees, or ``FAILED`` without an estimate."""
    if estimated is None or not all(np.isfinite(part).all() for part in estimated):
        return FAILED
    return max(
        rotation_error_deg(estimated[0], true[0]), direction_error_deg(estimated[1], true[1])
    )


def accuracy(errors_deg: Sequence[float]) -> Float64[np.ndarray, " bin"]:
    """Return the share of pairs with an error of at most 1, 2, ... 10 degrees.

    The benchmark makes a histogram with edges at whole degrees, closed on the left but for the last
    bin, which holds 10 as well; an error of exactly 1 therefore counts from 2 on. Without any pair
    the accuracies are nan.
    """
    errors = np.asarray(errors_deg, dtype=np.float64)
    if len(errors) == 0:
        return np.full(NUM_BINS, np.nan)
    counts, _ = np.histogram(errors[np.isfinite(errors)], np.arange(NUM_BINS + 1.0))
    share: Float64[np.ndarray, " bin"] = np.cumsum(counts) / len(errors)
    return share


def mean_average_accuracy(errors_deg: Sequence[float]) -> float:
    """Return mAA(10), the mean of :func:`accuracy` over its ten thresholds, in [0, 1]."""
    return float(accuracy(errors_deg).mean())


def paired_difference(
    errors_deg: Sequence[float],
    other_errors_deg: Sequence[float],
    *,
    num_draws: int = 2000,
) -> tuple[float, float, float]:
    """Return how much better the first errors are in mAA(10), and its 95 % interval.

    The interval is that of a paired bootstrap: the same image pairs are drawn with replacement for
    both.

    Args:
        errors_deg: of one estimator, pair by pair.
        other_errors_deg: of the other, of the same pairs.
        num_draws: times that pairs are drawn.

    Returns:
        Difference and the ends of its interval, each in [-1, 1]; nan without any pair.

    Raises:
        ValueError: the numbers of errors differ.
    """
    if len(errors_deg) != len(other_errors_deg):
        raise ValueError(f"{len(errors_deg)} errors against {len(other_errors_deg)}: not paired")
    if len(errors_deg) == 0:
        return (math.nan,) * 3
    each = [mean_average_accuracy([error]) for error in errors_deg]
    difference = np.array(each) - [mean_average_accuracy([error]) for error in other_errors_deg]
    drawn = np.random.default_rng(0).integers(0, len(each), (num_draws, len(each)))
    ends = np.quantile(difference[drawn].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(difference.mean()), float(ends[0]), float(ends[1])
