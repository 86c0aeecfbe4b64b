"""Orientation filters: of the matches of an image pair, those that agree on its rotation stay.

:func:`filter_paper` is that of the REKD paper's code, which trusts the most common whole degree.
:func:`filter_by_orientation` is this project's, which trusts a rotation only if it stands out from
chance. Both are functions of angles alone: no geometry is estimated.
"""

import math

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from rekd_hloc.geometry import TWO_PI, angle_difference
from rekd_hloc.matching.circular import find_modes
from rekd_hloc.matching.rotations import (
    SLACK_DEG,
    match_rotations,
    require_tolerance,
    rotation_modes,
    scales_of_matches,
)
from rekd_hloc.types import Matches

KERNEL_OCTAVES = 0.25
"""Kernel of the density of log2 scale ratios. On images under known homographies those of
right matches deviate by 0.07 to 0.16 in the median and 0.3 to 0.6 at the 95th percentile."""
OCTAVES_ROUND = 16.0
"""Scale ratios are laid around a circle of so many octaves: 1/256 and 256 meet."""


def filter_paper(
    matches: Matches,
    angle_a: Float[Tensor, " keypoint_a"],
    angle_b: Float[Tensor, " keypoint_b"],
    *,
    tolerance_deg: float = 30.0,
) -> Matches:
    """Keep the matches near the most common rotation, as the REKD paper's code does.

    Rotations in degrees are rounded (halves to even) and the most common whole degree counts as the
    rotation of the pair, however few matches share it; the band includes its ends. In two cases the
    paper's code depends on the order of the matches or on the zero of angles, and this does not:
    of equally common degrees it takes the one met first, here the one with most matches in its band
    wins, then the smaller; and it counts 359.5..360 apart from 0..0.5, here they are one degree.

    Args:
        matches: of images a and b.
        angle_a: of all keypoints of image a in radians.
        angle_b: of all keypoints of image b in radians.
        tolerance_deg: half width of the band in degrees, in (0, 180].

    Returns:
        The matches within the band, in their order.

    Raises:
        ValueError: the tolerance is out of range, an angle is not finite, or a match names a
            keypoint that has no angle.
    """
    require_tolerance(tolerance_deg)
    rotation = torch.rad2deg(match_rotations(matches, angle_a, angle_b))
    if len(rotation) == 0:
        return matches
    rotation = torch.round(rotation / SLACK_DEG) * SLACK_DEG
    votes = torch.bincount(torch.round(rotation).long() % 360, minlength=360)
    common = torch.nonzero(votes == votes.max())[:, 0]
    distance = torch.remainder(rotation[:, None] - common + 180, 360) - 180
    is_near = distance.abs() <= tolerance_deg + SLACK_DEG / 2
    best = int(is_near.sum(dim=0).argmax())
    return matches[is_near[:, best].to(matches.index.device)]


def filter_by_orientation(
    matches: Matches,
    angle_a: Float[Tensor, " keypoint_a"],
    angle_b: Float[Tensor, " keypoint_b"],
    *,
    tolerance_deg: float = 30.0,
    max_modes: int = 1,
    scale_a: Float[Tensor, " keypoint_a"] | None = None,
    scale_b: Float[Tensor, " keypoint_b"] | None = None,
    scale_tolerance: float = 0.0,
) -> Matches:
    """Keep the matches near the rotations that stand out from chance.

    These are found by :func:`rekd_hloc.matching.rotations.rotation_modes`. If none stands out all
    matches are kept, whatever their scales: a filter that knows nothing removes nothing.

    Args:
        matches: of images a and b.
        angle_a: of all keypoints of image a in radians.
        angle_b: of all keypoints of image b in radians.
        tolerance_deg: half width in degrees of the band about each mode, in (0, 180].
        max_modes: rotations accepted at once, at least 1; the strongest ones.
        scale_a: of all keypoints of image a, positive; needed with ``scale_tolerance``.
        scale_b: of all keypoints of image b, likewise.
        scale_tolerance: largest factor between the scale ratio (b over a) of a match and the most
            common one of its mode, above 1; 0 accepts any.

    Returns:
        The matches within a band, in their order.

    Raises:
        ValueError: an option is out of range, scales are missing or not positive, an angle is not
            finite, or a match names a keypoint that has no angle.
    """
    if scale_tolerance != 0 and not scale_tolerance > 1:
        raise ValueError(f"scale_tolerance must be 0 or above 1, got {scale_tolerance}")
    ratio = _log2_scale_ratios(matches, scale_a, scale_b) if scale_tolerance else None
    modes = rotation_modes(
        matches, angle_a, angle_b, tolerance_deg=tolerance_deg, max_modes=max_modes
    )
    if not modes:
        return matches
    rotation = match_rotations(matches, angle_a, angle_b)
    centres = torch.tensor([mode.angle for mode in modes], dtype=torch.float64)
    nearest, mode_index = angle_difference(rotation[:, None], centres).abs().min(dim=1)
    keep = nearest <= math.radians(tolerance_deg + SLACK_DEG)
    if ratio is not None:
        for number in range(len(modes)):
            members = torch.nonzero(keep & (mode_index == number))[:, 0]
            keep[members] = _agree_in_scale(ratio[members], math.log2(scale_tolerance))
    return matches[keep.to(matches.index.device)]


def _log2_scale_ratios(
    matches: Matches, scale_a: Tensor | None, scale_b: Tensor | None
) -> Float64[Tensor, " match"]:
    if scale_a is None or scale_b is None:
        raise ValueError("scale_tolerance needs scale_a and scale_b; pass both, or set it to 0")
    index = matches.index.cpu()
    a = scales_of_matches("scale_a", scale_a, index[:, 0])
    b = scales_of_matches("scale_b", scale_b, index[:, 1])
    return torch.log2(b / a)


def _agree_in_scale(
    log2_ratio: Float64[Tensor, " match"], tolerance_octaves: float
) -> Bool[Tensor, " match"]:
    """Say whether a log2 scale ratio is near the most common one."""
    per_octave = TWO_PI / OCTAVES_ROUND
    around = log2_ratio * per_octave
    modes = find_modes(around, kernel=KERNEL_OCTAVES * per_octave)
    if len(modes) == 0:
        return torch.ones(len(log2_ratio), dtype=torch.bool)
    slack = 1e-6  # float32 scales of equal levels give ratios that differ by 1e-7
    return angle_difference(around, modes[0]).abs() <= (tolerance_octaves + slack) * per_octave
