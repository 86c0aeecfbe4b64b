"""Affine maps of the plane about matches, from the matches around them.

Positions of a dozen neighbours say more of the local map between two images than one keypoint's
scale and angle do: they know its stretch and shear. Where neighbours do not agree on a map, as at
an edge in depth, the match's own similarity transform stands.
"""

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rekd_hloc.geometry import angle_difference
from rekd_hloc.refinement.align_patches import similarity_of
from rekd_hloc.types import Keypoints

NUM_NEIGHBOURS = 16
"""Nearest matches in image a that an affine map is fitted to."""
MIN_AGREEING = 6
"""Neighbours on one map without which a match keeps its own similarity transform."""
RELATIVE_TOLERANCE = 0.3
"""Of neighbours that may agree: largest error of the place that the similarity transform predicts,
as a share of the distance; and"""
SCALE_TOLERANCE_PX = 8.0
"""this times the keypoint's scale in image b, added to it."""
ROTATION_TOLERANCE_DEG = 25.0
RATIO_TOLERANCE_OCTAVES = 1.0
"""Largest differences from such a neighbour in rotation and in log2 of the scale ratio."""
FIT_TOLERANCE_PX = 3.0
"""Largest error of a neighbour on the map, times the keypoint's scale in image b."""
NUM_FITS = 3
"""Each one leaves out what the one before did not fit."""
PRIOR = 0.1
"""Neighbours, of mean distance, that the match's own similarity transform counts for."""

BLOCK = 1024
"""Matches whose distances to all others exist at once; changes memory only."""


@torch.no_grad()
def local_affine(a: Keypoints, b: Keypoints) -> Float[Tensor, "match 2 2"]:
    """Return maps of the plane from image a to image b.

    Args:
        a: keypoints in a; row m matches row m of ``b``.
        b: keypoints in b.
    """
    own = similarity_of(a, b)
    if len(a) <= MIN_AGREEING:
        return own
    near = _nearest(a.xy)
    step_a, step_b = a.xy[near] - a.xy[:, None], b.xy[near] - b.xy[:, None]
    is_likely = _may_agree(a, b, near, step_a @ own.transpose(1, 2), step_b)
    agrees, affine = is_likely, own
    for _ in range(NUM_FITS):
        affine, offset = _fit(step_a, step_b, agrees, own)
        error = (step_a @ affine.transpose(1, 2) + offset[:, None] - step_b).norm(dim=2)
        agrees = is_likely & (error <= FIT_TOLERANCE_PX * b.scale[:, None])
    is_good = (agrees.sum(dim=1) >= MIN_AGREEING) & (torch.linalg.det(affine) > 0)
    return torch.where(is_good[:, None, None], affine, own)


def _nearest(xy: Float[Tensor, "match 2"]) -> Int64[Tensor, "match near"]:
    """Return the nearest other matches, whose positions may be the same."""
    count = min(NUM_NEIGHBOURS, len(xy) - 1)
    parts = []
    for rows in torch.split(torch.arange(len(xy), device=xy.device), BLOCK):
        distance = torch.cdist(xy[rows], xy, compute_mode="donot_use_mm_for_euclid_dist")
        distance[torch.arange(len(rows)), rows] = torch.inf
        parts.append(distance.topk(count, dim=1, largest=False).indices)
    return torch.cat(parts)


def _may_agree(
    a: Keypoints, b: Keypoints, near: Int64[Tensor, "match near"], predicted: Tensor, true: Tensor
) -> Bool[Tensor, "match near"]:
    """Say which neighbours have nearly the frames and the place that a match predicts."""
    rotation, octaves = b.angle - a.angle, torch.log2(b.scale / a.scale)
    tolerance = RELATIVE_TOLERANCE * true.norm(dim=2) + SCALE_TOLERANCE_PX * b.scale[:, None]
    is_near: Tensor = (predicted - true).norm(dim=2) <= tolerance
    turn = angle_difference(rotation[near], rotation[:, None]).abs()
    is_near &= turn <= math.radians(ROTATION_TOLERANCE_DEG)
    is_near &= (octaves[near] - octaves[:, None]).abs() <= RATIO_TOLERANCE_OCTAVES
    return is_near


def _fit(
    step_a: Float[Tensor, "match near 2"],
    step_b: Float[Tensor, "match near 2"],
    agrees: Bool[Tensor, "match near"],
    own: Float[Tensor, "match 2 2"],
) -> tuple[Float[Tensor, "match 2 2"], Float[Tensor, "match 2"]]:
    """Fit affine maps by least squares; the match itself may lie off the map, by the offset."""
    unit = step_a.square().sum(dim=2).mean(dim=1).sqrt().clamp(min=1e-3)[:, None, None]
    places = torch.cat([step_a / unit, torch.ones_like(step_a[..., :1])], dim=2)
    weighted = (places * agrees[..., None]).transpose(1, 2)
    prior = PRIOR * torch.diag(places.new_tensor([1.0, 1.0, 0.0]))
    guess = torch.cat([own.transpose(1, 2), torch.zeros_like(own[:, :1])], dim=1)
    normal = weighted @ places + prior + 1e-4 * torch.eye(3).to(places)
    solution = torch.linalg.solve(normal, weighted @ (step_b / unit) + PRIOR * guess)
    return solution[:, :2].transpose(1, 2), solution[:, 2] * unit[:, 0]
