"""Figures of merit for keypoints and matches under a known homography, on arrays alone.

Four protocols call themselves "HPatches repeatability"; every function here says in its name or its
docstring which one it is. All points are in pixels, integer coordinates at pixel centres.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rekd_hloc.geometry import angle_difference, warp_angles, warp_points


def repeatability_rekd(
    xy_a: Float[Tensor, "keypoint_a 2"],
    xy_b: Float[Tensor, "keypoint_b 2"],
    b_from_a: Float[Tensor, "3 3"],
    *,
    threshold_px: float = 3.0,
) -> float:
    """Share of all keypoints of a whose warp has any keypoint of b within the threshold.

    The protocol of REKD's code: points that leave image b count as misses, several points of a may
    share one of b. No keypoint at all gives 0.
    """
    if len(xy_a) == 0 or len(xy_b) == 0:
        return 0.0
    return float(
        (nearest_distance(warp_points(b_from_a, xy_a), xy_b) <= threshold_px).float().mean()
    )


def nearest_distance(
    points: Float[Tensor, "point 2"], others: Float[Tensor, "other 2"], *, block: int = 2048
) -> Float[Tensor, " point"]:
    """Distance from each point to the nearest of the others; infinite where there is none."""
    if len(others) == 0:
        return torch.full((len(points),), float("inf"))
    parts = [
        torch.cdist(chunk.double(), others.double()).amin(dim=1) for chunk in points.split(block)
    ]
    distance = torch.cat(parts) if parts else torch.zeros(0)
    return torch.nan_to_num(distance.to(points.dtype), nan=float("inf"))


def match_errors(
    xy_a: Float[Tensor, "keypoint_a 2"],
    xy_b: Float[Tensor, "keypoint_b 2"],
    index: Int64[Tensor, "match 2"],
    b_from_a: Float[Tensor, "3 3"],
) -> Float[Tensor, " match"]:
    """Distance in image b between each match's keypoint and the warp of its partner, pixels."""
    warped = warp_points(b_from_a, xy_a[index[:, 0]].double())
    error = (warped - xy_b[index[:, 1]].double()).norm(dim=1)
    return torch.nan_to_num(error, nan=float("inf"))


def matching_accuracy(
    error_px: Float[Tensor, " match"], thresholds_px: Float[Tensor, " threshold"]
) -> Float[Tensor, " threshold"]:
    """Share of matches within each threshold; a pair without matches has accuracy 0 (REKD, D2-Net).

    The mean over image pairs is the mean matching accuracy, MMA.
    """
    if len(error_px) == 0:
        return torch.zeros(len(thresholds_px))
    return (error_px[:, None] <= thresholds_px[None, :].to(error_px)).float().mean(dim=0)


def visible_points(
    xy: Float[Tensor, "point 2"],
    b_from_a: Float[Tensor, "3 3"],
    size_b: tuple[int, int],
    *,
    border_px: float = 0.0,
) -> Bool[Tensor, " point"]:
    """Whether each point of a falls inside image b (width, height), ``border_px`` from its edge."""
    warped = warp_points(b_from_a, xy)
    limit = warped.new_tensor(size_b) - 1 - border_px
    return ((warped >= border_px) & (warped <= limit)).all(dim=1)


def orientation_errors(
    xy_a: Float[Tensor, "match 2"],
    angle_a: Float[Tensor, " match"],
    angle_b: Float[Tensor, " match"],
    b_from_a: Float[Tensor, "3 3"],
) -> Float[Tensor, " match"]:
    """Absolute difference in radians between b's angles and a's carried by the homography."""
    return angle_difference(angle_b, warp_angles(b_from_a, xy_a, angle_a)).abs()
