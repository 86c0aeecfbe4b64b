"""The losses of the detector.

REKD has two: keypoints by multi-scale index proposal, orientations by cross-entropy. Index proposal
is Key.Net's (Barroso-Laguna et al., ICCV 2019, section 3.3) with the windows and weights of Lee et
al. (CVPR 2022). The orientation loss is their equation for dense histograms, with the true angle
shifted by fractions of a bin instead of truncated to whole bins. Two further losses look at the
score maps alone. Where a batch is shared by several processes, the mean of their losses is the loss
of the joint batch.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from rekd_hloc.features.detector.orientation import roll_logits
from training.common.distributed import average_over_processes

Importance = Literal["score", "rank"]

BORDER_PX = 16
"""Margin of each crop that no loss looks at: padding reaches into it."""
FLAT_WINDOW_PX = 9
"""Box in which an image's contrast is measured: what the first two convolutions see."""
FLAT_CONTRAST = 5 / 255
"""Standard deviation in the box at which a pixel counts as flat by exp(-1); above camera noise."""


def warp_maps(
    maps: Float[Tensor, "batch channel height width"], src_from_dst: Float[Tensor, "batch 3 3"]
) -> Float[Tensor, "batch channel height width"]:
    """Warp maps from the frame of src to that of dst, bilinearly; zero where src does not reach."""
    batch, _, height, width = maps.shape
    y, x = torch.meshgrid(
        torch.arange(height, device=maps.device),
        torch.arange(width, device=maps.device),
        indexing="ij",
    )
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1).reshape(-1, 3).to(maps)
    moved = points @ src_from_dst.to(maps).transpose(1, 2)
    extent = torch.tensor([width - 1, height - 1], device=maps.device)
    grid = 2 * moved[..., :2] / moved[..., 2:] / extent - 1
    return F.grid_sample(maps, grid.view(batch, height, width, 2), align_corners=True)


def border_mask(
    like: Float[Tensor, "batch channel height width"],
) -> Float[Tensor, "batch 1 height width"]:
    """Return a mask of one inside, and zero within ``BORDER_PX`` of the crop's edge."""
    mask = torch.zeros_like(like[:, :1])
    mask[:, :, BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = 1
    return mask


def keypoint_loss(
    score_a: Float[Tensor, "batch 1 height width"],
    score_b: Float[Tensor, "batch 1 height width"],
    b_from_a: Float[Tensor, "batch 3 3"],
    *,
    windows_px: tuple[int, ...] = (8, 16, 24, 32, 40),
    weights: tuple[float, ...] = (256.0, 64.0, 16.0, 4.0, 1.0),
    grid_shift: tuple[int, int] = (0, 0),
    importance: Importance = "score",
) -> Float[Tensor, ""]:
    """Compute multi-scale index proposal between two score maps, averaged over both directions.

    In every window of a grid, the soft arg-max of the map itself is pulled towards the arg-max of
    the other map warped into its frame.

    Args:
        score_a, score_b: score maps, not negative.
        b_from_a: homographies in pixels.
        windows_px: sides of the windows.
        weights: weight of each window size.
        grid_shift: (x, y) by which the grid of windows is moved, in pixels; drawn anew at each step
            it keeps the network from learning the windows' edges. (0, 0) is the paper.
        importance: weight of a window by its ``score``, scaled to 0..1 within the image (paper),
            or by the ``rank`` of its score among the image's windows. By score, a map of few high
            spikes leaves most windows without weight, and their points drift.
    """
    mask = border_mask(score_a)
    a_from_b = torch.linalg.inv(b_from_a)
    total = score_a.new_zeros(())
    for score, other, score_from_other in (
        (score_a, score_b, a_from_b),
        (score_b, score_a, b_from_a),
    ):
        other_from_score = torch.linalg.inv(score_from_other)
        visible = warp_maps(mask, other_from_score) * mask
        target = (warp_maps(other * mask, other_from_score) * visible).detach()
        for window, weight in zip(windows_px, weights, strict=True):
            total = total + weight / 2 * _window_loss(
                score * visible, target, visible, window, grid_shift, importance
            )
    return total


def orientation_loss(
    logits_a: Float[Tensor, "batch bin height width"],
    logits_b: Float[Tensor, "batch bin height width"],
    b_from_a: Float[Tensor, "batch 3 3"],
    angle: Float[Tensor, " batch"],
    weight_a: Float[Tensor, "batch 1 height width"] | None = None,
    *,
    whole_bins: bool = False,
) -> Float[Tensor, ""]:
    """Compute the cross-entropy between the histograms of a, rotated by the true angle, and of b.

    Args:
        logits_a, logits_b: orientation logits of the two crops.
        b_from_a: homographies in pixels.
        angle: rotation of the content from a to b, radians, clockwise in image coordinates.
        weight_a: importance of each pixel of a; None counts all visible pixels alike (paper).
        whole_bins: cut the angle to whole bins, towards zero, as the paper's code does: on average
            half a bin is lost, and bin 0 is twice as wide as the others.

    Returns:
        The weighted mean over pixels seen in both crops; log(bin) where nothing is known.
    """
    mask = border_mask(logits_a)
    weight = mask * warp_maps(mask, b_from_a)
    if weight_a is not None:
        weight = weight * weight_a
    if whole_bins:
        step = 2 * math.pi / logits_a.shape[1]
        angle = (angle / step).trunc() * step
    rotated = roll_logits(logits_a, angle)
    aligned = warp_maps(logits_b, b_from_a)
    log_a, log_b = rotated.log_softmax(dim=1), aligned.log_softmax(dim=1)
    both = (log_a.exp() * log_b).sum(dim=1, keepdim=True)
    both = (both + (log_b.exp() * log_a).sum(dim=1, keepdim=True)) / 2
    return -_weighted_mean(both, weight)


def similarity_loss(
    score_a: Float[Tensor, "batch 1 height width"],
    score_b: Float[Tensor, "batch 1 height width"],
    b_from_a: Float[Tensor, "batch 3 3"],
    *,
    window_px: int = 16,
    grid_shift: tuple[int, int] = (0, 0),
) -> Float[Tensor, ""]:
    """Return one minus the maps' cosine, in windows (R2D2, Revaud et al., 2019) and whole.

    Index proposal looks at one pixel of a window. The windows' cosines hold the map around it in
    place. The cosine over the common area keeps the order of strong and weak points, which decides
    on the repeatability of the strongest ones.
    """
    mask = border_mask(score_a)
    visible = warp_maps(mask, b_from_a) * mask
    aligned = warp_maps(score_b, b_from_a)
    windows_a, windows_b, is_visible = (
        _split(m, window_px, grid_shift) for m in (score_a * visible, aligned * visible, visible)
    )
    cosine = F.cosine_similarity(windows_a, windows_b, dim=-1, eps=1e-6)
    weight = is_visible.mean(dim=-1)
    local = _weighted_mean(1 - cosine, weight)
    whole = F.cosine_similarity(
        (score_a * visible).flatten(1), (aligned * visible).flatten(1), dim=-1, eps=1e-6
    )
    return (local + (1 - whole).mean()) / 2


def peakiness_loss(
    score: Float[Tensor, "batch 1 height width"], image: Float[Tensor, "batch 1 height width"]
) -> Float[Tensor, ""]:
    """Return share of the scores that lies where the image is flat, 0..1; mean over the batch.

    Index proposal asks every window for a peak, even in sky and on plain walls. This loss asks for
    low scores there. A factor on all scores does not change it, so small scores do not meet it.

    Args:
        score: score maps, not negative.
        image: the grey crops they were made from, 0..1.
    """
    mask = border_mask(score)
    inside = score * mask
    flat = torch.exp(-((_contrast(image) / FLAT_CONTRAST) ** 2)).detach()
    share = (inside * flat).sum(dim=(1, 2, 3)) / inside.sum(dim=(1, 2, 3)).clamp(min=1e-6)
    return share.mean()


def _contrast(image: Tensor) -> Tensor:
    """Standard deviation in a box about each pixel."""
    radius = FLAT_WINDOW_PX // 2
    mean, square = (
        F.avg_pool2d(F.pad(m, [radius] * 4, mode="reflect"), FLAT_WINDOW_PX, stride=1)
        for m in (image, image.square())
    )
    return (square - mean.square()).clamp(min=0).sqrt()


def _weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean by weights without gradient; over several processes, by the weights of all of them."""
    return (values * weight).sum() / average_over_processes(weight.sum()).clamp(min=1e-6)


def _window_loss(
    score: Tensor,
    target: Tensor,
    visible: Tensor,
    window: int,
    shift: tuple[int, int],
    importance: Importance,
) -> Tensor:
    score, target, visible = (_split(m, window, shift) for m in (score, target, visible))
    axis = torch.arange(window, dtype=score.dtype, device=score.device)
    grid = torch.stack(
        [axis.repeat(window), axis.repeat_interleave(window)], dim=1
    )  # x, y of each pixel of a window
    highest = score.amax(dim=-1, keepdim=True)
    soft = torch.exp(score / (highest + 1e-6)) - (1 - 1e-6)
    total = soft.sum(dim=-1, keepdim=True)
    position = soft @ grid / (total + 1e-6)
    mean_score = ((soft * score).sum(dim=-1) / (total[..., 0] + 1e-6)).detach()
    expected = grid[_argmax(target)]
    weight = _min_max(mean_score) if importance == "score" else _relative_rank(mean_score)
    distance = ((position - expected) / window).square().sum(dim=-1)
    return 1000 * (weight * visible.amax(dim=-1) * distance).mean()


def _split(maps: Tensor, window: int, shift: tuple[int, int]) -> Tensor:
    """Cut (batch, 1, h, w) into windows: (batch, window, pixel); leftovers are dropped."""
    left, top = shift[0] % window, shift[1] % window
    maps = maps[:, 0, top:, left:]
    rows, columns = maps.shape[1] // window, maps.shape[2] // window
    maps = maps[:, : rows * window, : columns * window]
    cut = maps.reshape(len(maps), rows, window, columns, window)
    return cut.transpose(2, 3).reshape(len(maps), rows * columns, window * window)


def _argmax(windows: Tensor) -> Int64[Tensor, "batch window"]:
    return windows.argmax(dim=-1)


def _min_max(values: Tensor) -> Tensor:
    low = values.amin(dim=1, keepdim=True)
    high = (values - low).amax(dim=1, keepdim=True)
    return (values - low) / (high + 1e-6)


def _relative_rank(values: Tensor) -> Tensor:
    """Rank of each value in its row, from 0 for the lowest to 1 for the highest."""
    order = values.argsort(dim=1).argsort(dim=1)
    return order.to(values.dtype) / max(values.shape[1] - 1, 1)
