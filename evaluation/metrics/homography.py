"""Metrics of keypoints and matches under a known homography, on arrays alone.

Four protocols call themselves "HPatches repeatability"; every function here says in its name or its
docstring which one it is. All points are in pixels, integer coordinates at pixel centres. Nothing
loops over keypoints, and everything runs where its tensors are.
"""

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rekd_hloc.geometry import warp_points
from rekd_hloc.types import Features, Matches

CIRCLE_RADIUS_PX = 30.0
"""Radius to which the larger of two circles is brought before their overlap is taken (Key.Net)."""


def repeatability_rekd(
    xy_a: Float[Tensor, "keypoint_a 2"],
    xy_b: Float[Tensor, "keypoint_b 2"],
    b_from_a: Float[Tensor, "3 3"],
    *,
    threshold_px: float = 3.0,
) -> float:
    """Return share of all keypoints of a whose warp has any keypoint of b within the threshold.

    The protocol of REKD's code: points that leave image b count as misses, several points of a may
    share one of b. No keypoint at all gives 0.
    """
    if len(xy_a) == 0 or len(xy_b) == 0:
        return 0.0
    distance = nearest_distance(warp_points(b_from_a, xy_a), xy_b)
    return float((distance <= threshold_px).double().mean())


def distinct_points(
    xy: Float[Tensor, "keypoint 2"], *, threshold_px: float = 3.0
) -> Bool[Tensor, " keypoint"]:
    """Return which keypoints, strongest first, are no closer than the threshold to a stronger one.

    Points that crowd around one corner are counted once: a detector that fires many times there
    has a high repeatability by REKD's protocol, and few places to match.
    """
    distance = torch.cdist(xy.double(), xy.double())
    is_stronger = torch.ones_like(distance, dtype=torch.bool).tril(diagonal=-1)
    return ~((distance < threshold_px) & is_stronger).any(dim=1)


def repeatability_symmetric(
    xy_a: Float[Tensor, "keypoint_a 2"],
    xy_b: Float[Tensor, "keypoint_b 2"],
    b_from_a: Float[Tensor, "3 3"],
    *,
    threshold_px: float = 3.0,
) -> tuple[float, float]:
    """SuperPoint's repeatability, and the localisation error in pixels.

    All points must be visible in the other image. Those of a that have one of b within the
    threshold and those of b that have one of a, over all points; distances are taken in image b.
    The localisation error is the mean of the distances within the threshold, nan if there is none.
    """
    warped = warp_points(b_from_a, xy_a)
    distance = torch.cat([nearest_distance(warped, xy_b), nearest_distance(xy_b, warped)])
    if len(distance) == 0:
        return 0.0, math.nan
    near = distance[distance <= threshold_px]
    return len(near) / len(distance), float(near.mean()) if len(near) else math.nan


def repeatability_overlap(
    xy_a_in_b: Float[Tensor, "keypoint_a 2"],
    radius_a_in_b: Float[Tensor, " keypoint_a"],
    xy_b: Float[Tensor, "keypoint_b 2"],
    radius_b: Float[Tensor, " keypoint_b"],
    *,
    min_overlap: float = 0.6,
) -> float:
    """Key.Net's repeatability: pairs of overlapping circles, one to one, over the smaller count.

    All points must be visible in the other image. The two radii of a pair are multiplied by one
    factor that brings the larger to 30 px, while the distance stays in pixels of image b; equal
    radii give the "single scale" figure. Pairs are taken by falling overlap.

    Args:
        xy_a_in_b: keypoints of a, warped into image b.
        radius_a_in_b: their radii there, in any unit that ``radius_b`` has too.
        xy_b: keypoints of b.
        radius_b: their radii.
        min_overlap: least intersection over union.
    """
    smaller = min(len(xy_a_in_b), len(xy_b))
    if smaller == 0:
        return 0.0
    distance = torch.cdist(xy_a_in_b.double(), xy_b.double())
    row, column = torch.nonzero(distance < 2 * CIRCLE_RADIUS_PX, as_tuple=True)
    radius = torch.stack([radius_a_in_b[row], radius_b[column]]).double()
    radius = radius * (CIRCLE_RADIUS_PX / radius.amax(dim=0).clamp(min=1e-12))
    overlap = circle_overlap(radius[0], radius[1], distance[row, column])
    enough = overlap >= min_overlap
    chosen = choose_one_to_one(row[enough], column[enough], overlap[enough])
    return int(chosen.sum()) / smaller


def circle_overlap(
    radius_a: Float[Tensor, " pair"],
    radius_b: Float[Tensor, " pair"],
    distance: Float[Tensor, " pair"],
) -> Float[Tensor, " pair"]:
    """Intersection over union of two circles with their centres that far apart."""
    small, large = torch.minimum(radius_a, radius_b), torch.maximum(radius_a, radius_b)
    apart = distance.clamp(min=1e-12)
    cos_small = (apart**2 + small**2 - large**2) / (2 * apart * small.clamp(min=1e-12))
    cos_large = (apart**2 + large**2 - small**2) / (2 * apart * large.clamp(min=1e-12))
    half_small, half_large = (c.clamp(-1, 1).arccos() for c in (cos_small, cos_large))
    shared = small**2 * (half_small - (2 * half_small).sin() / 2)
    shared = shared + large**2 * (half_large - (2 * half_large).sin() / 2)
    shared = torch.where(distance <= large - small, math.pi * small**2, shared)
    shared = torch.where(distance >= large + small, torch.zeros_like(shared), shared)
    union = math.pi * (small**2 + large**2) - shared
    return shared / union.clamp(min=1e-12)


def choose_one_to_one(
    row: Int64[Tensor, " pair"], column: Int64[Tensor, " pair"], weight: Float[Tensor, " pair"]
) -> Bool[Tensor, " pair"]:
    """Return pairs taken greedily by falling weight, each row and each column at most once.

    Among equal weights the earlier pair goes first. In every round, all pairs that are the best of
    their row and of their column are taken at once, which chooses what one by one would.
    """
    chosen = torch.zeros(len(row), dtype=torch.bool, device=row.device)
    if len(row) == 0:
        return chosen
    rank = torch.argsort(torch.argsort(weight, descending=True, stable=True))
    alive = torch.arange(len(row), device=row.device)
    while len(alive):
        best_of_row = _least(rank[alive], row[alive])
        best_of_column = _least(rank[alive], column[alive])
        is_best = (rank[alive] == best_of_row[row[alive]]) & (
            rank[alive] == best_of_column[column[alive]]
        )
        taken = alive[is_best]
        chosen[taken] = True
        clash = torch.isin(row[alive], row[taken]) | torch.isin(column[alive], column[taken])
        alive = alive[~clash]
    return chosen


def nearest_distance(
    points: Float[Tensor, "point 2"], others: Float[Tensor, "other 2"], *, block: int = 2048
) -> Float[Tensor, " point"]:
    """Distance from each point to the nearest of the others; infinite where there is none."""
    if len(others) == 0:
        return points.new_full((len(points),), math.inf)
    parts = [
        torch.cdist(chunk.double(), others.double()).amin(dim=1)
        for chunk in torch.split(points, block)
    ]
    return torch.nan_to_num(torch.cat(parts), nan=math.inf).to(points.dtype)


def match_errors(
    xy_a: Float[Tensor, "keypoint_a 2"],
    xy_b: Float[Tensor, "keypoint_b 2"],
    index: Int64[Tensor, "match 2"],
    b_from_a: Float[Tensor, "3 3"],
) -> Float[Tensor, " match"]:
    """Distance in image b between each match's keypoint and the warp of its partner, pixels."""
    warped = warp_points(b_from_a, xy_a[index[:, 0]].double())
    error = (warped - xy_b[index[:, 1]].double()).norm(dim=1)
    return torch.nan_to_num(error, nan=math.inf)


def matching_accuracy(
    error_px: Float[Tensor, " match"], thresholds_px: Float[Tensor, " threshold"]
) -> Float[Tensor, " threshold"]:
    """Share of matches within each threshold; a pair without matches has accuracy 0 (REKD, D2-Net).

    The mean over image pairs is the mean matching accuracy, MMA.
    """
    if len(error_px) == 0:
        return torch.zeros(len(thresholds_px))
    return (error_px[:, None] <= thresholds_px[None, :].to(error_px)).float().mean(dim=0)


def accuracy_of_matches(
    a: Features,
    b: Features,
    matches: Matches,
    b_from_a: Float[Tensor, "3 3"],
    thresholds_px: Float[Tensor, " threshold"],
) -> list[float]:
    """Matching accuracy of features at each threshold."""
    errors = match_errors(a.keypoints.xy, b.keypoints.xy, matches.index, b_from_a)
    return matching_accuracy(errors, thresholds_px).tolist()


def visible_points(
    xy: Float[Tensor, "point 2"],
    b_from_a: Float[Tensor, "3 3"],
    size_b: tuple[int, int],
) -> Bool[Tensor, " point"]:
    """Say whether each point of a falls inside image b (width, height)."""
    warped = warp_points(b_from_a, xy)
    return ((warped >= 0) & (warped <= warped.new_tensor(size_b) - 1)).all(dim=1)


def corner_error(
    estimated: Float[Tensor, "3 3"], b_from_a: Float[Tensor, "3 3"], size_a: tuple[int, int]
) -> float:
    """Return mean distance in image b between the corners of a under two homographies, pixels.

    A corner that either map sends to infinity makes the error infinite.
    """
    right, bottom = size_a[0] - 1.0, size_a[1] - 1.0
    corners = torch.tensor(
        [[0.0, 0.0], [right, 0.0], [right, bottom], [0.0, bottom]], dtype=torch.float64
    )
    apart = warp_points(estimated.double(), corners) - warp_points(b_from_a.double(), corners)
    error = float(apart.norm(dim=1).mean())
    return error if math.isfinite(error) else math.inf


def _least(value: Int64[Tensor, " pair"], group: Int64[Tensor, " pair"]) -> Int64[Tensor, " group"]:
    """Return the least value of each group."""
    top = torch.iinfo(torch.int64).max
    least = torch.full((int(group.max()) + 1,), top, device=value.device)
    return least.scatter_reduce(0, group, value, reduce="amin")
