"""From a score map to keypoints: local maxima, sub-pixel positions, one point per structure.

Everything here is a free function on tensors, equivariant to quarter turns: no rule prefers a
direction, and ties on a plateau keep every pixel of the plateau out or in alike.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def find_local_maxima(
    score: Float[Tensor, "height width"],
    *,
    window_px: int,
    border_px: int,
    threshold: float = 0.0,
    min_relief: float = 0.0,
    valid: Bool[Tensor, "height width"] | None = None,
) -> Int64[Tensor, "keypoint 2"]:
    """Pixels (x, y) that are the maximum of their window, strongest first.

    Args:
        score: responses; the border and what is not valid count as zero before the comparison.
        window_px: side of the square window, odd.
        border_px: margin without keypoints.
        threshold: responses at or below it are no keypoints.
        min_relief: least height above the lowest response of the window, as a share of the
            keypoint's own; zero takes every pixel of a flat response for a keypoint.
        valid: False where no keypoint may lie.
    """
    height, width = score.shape
    if height <= 2 * border_px or width <= 2 * border_px:
        return torch.zeros(0, 2, dtype=torch.int64, device=score.device)
    inside = torch.zeros_like(score)
    rows, columns = slice(border_px, height - border_px), slice(border_px, width - border_px)
    inside[rows, columns] = score[rows, columns]
    if valid is not None:
        inside = inside * valid
    highest = _window_max(inside, window_px)
    is_peak = (inside == highest) & (inside > threshold)
    if min_relief > 0:
        lowest = -_window_max(-score, window_px)
        is_peak &= inside - lowest > min_relief * inside
    y, x = torch.nonzero(is_peak, as_tuple=True)
    order = torch.argsort(inside[y, x], descending=True, stable=True)
    return torch.stack([x, y], dim=1)[order]


def refine_positions(
    score: Float[Tensor, "height width"], xy: Int64[Tensor, "keypoint 2"]
) -> tuple[Float[Tensor, "keypoint 2"], Float[Tensor, " keypoint"]]:
    """Sub-pixel positions and peak heights by a quadratic fit to each 3x3 neighbourhood.

    The six coefficients are the least-squares fit to the nine values. A point stays on its pixel
    where the fit has no maximum within one pixel.
    """
    top = score[xy[:, 1], xy[:, 0]]
    unit = torch.where(top > 0, top, torch.ones_like(top))
    patch = _neighbourhoods(score, xy) / unit[:, None, None]  # the fit must not depend on the unit
    column, row = patch.mean(dim=1), patch.mean(dim=2)  # averaged over y and over x
    gx = (column[:, 2] - column[:, 0]) / 2
    gy = (row[:, 2] - row[:, 0]) / 2
    hxx = column[:, 0] - 2 * column[:, 1] + column[:, 2]
    hyy = row[:, 0] - 2 * row[:, 1] + row[:, 2]
    hxy = (patch[:, 2, 2] - patch[:, 2, 0] - patch[:, 0, 2] + patch[:, 0, 0]) / 4
    determinant = hxx * hyy - hxy * hxy
    is_peak = (determinant > 1e-12) & (hxx + hyy < 0)
    safe = torch.where(is_peak, determinant, torch.ones_like(determinant))
    offset = torch.stack([hxy * gy - hyy * gx, hxy * gx - hxx * gy], dim=1) / safe[:, None]
    is_peak &= offset.abs().amax(dim=1) <= 1.0
    offset = torch.where(is_peak[:, None], offset, torch.zeros_like(offset))
    height = top + 0.5 * (gx * offset[:, 0] + gy * offset[:, 1]) * unit
    return xy.to(offset.dtype) + offset, height


def find_duplicates(
    xy: Float[Tensor, "keypoint 2"],
    level: Int64[Tensor, " keypoint"],
    scale: Float[Tensor, " keypoint"],
    score: Float[Tensor, " keypoint"],
    *,
    radius_px: float,
    block: int = 2048,
) -> Bool[Tensor, " keypoint"]:
    """True for keypoints beside a stronger one of a neighbouring level: the same structure twice.

    Beside means within ``radius_px`` pixels of the coarser of the two levels. The rule looks at
    each pair alone, so the answer does not depend on the order of the keypoints; of two equally
    strong ones both stay.
    """
    duplicate = torch.zeros(len(xy), dtype=torch.bool, device=xy.device)
    for first in range(0, len(xy), block):
        rows = slice(first, first + block)
        # by matrix products, as is the default, two places at 4000 px would be wrong by a pixel
        exactly = "donot_use_mm_for_euclid_dist"
        distance = torch.cdist(xy[rows], xy, compute_mode=exactly)
        reach = radius_px * torch.maximum(scale[rows, None], scale[None, :])
        gap = (level[rows, None] - level[None, :]).abs()
        stronger = score[None, :] > score[rows, None]
        duplicate[rows] = ((distance < reach) & (gap == 1) & stronger).any(dim=1)
    return duplicate


def _window_max(score: Tensor, window_px: int) -> Tensor:
    radius = window_px // 2
    maps = score[None, None]
    maps = F.max_pool2d(maps, (window_px, 1), stride=1, padding=(radius, 0))
    return F.max_pool2d(maps, (1, window_px), stride=1, padding=(0, radius))[0, 0]


def _neighbourhoods(score: Tensor, xy: Tensor) -> Tensor:
    steps = torch.arange(-1, 2, device=score.device)
    height, width = score.shape
    y = (xy[:, 1, None, None] + steps[:, None]).clamp(0, height - 1)
    x = (xy[:, 0, None, None] + steps[None, :]).clamp(0, width - 1)
    return score[y, x]
