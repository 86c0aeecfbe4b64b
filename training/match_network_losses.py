"""Losses of the match network: is each match right, and do the likely ones give the geometry."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from training.match_pairs import LabelledPair

RIGHT_WEIGHT = 2.0
"""Of right matches against wrong ones, of which there are about twice as many."""
MIN_RIGHT = 30
"""Fewest right matches of a pair whose geometry is looked at."""
RESIDUAL = 0.01
"""Distance from the epipolar line that counts as 1, in units of the deviation of the positions."""
LARGEST_RESIDUAL = 5.0
"""Larger ones pull no more than this."""


def label_loss(logits: Float[Tensor, " match"], pairs: Sequence[LabelledPair]) -> Float[Tensor, ""]:
    """Return the cross entropy of the matches of which is known whether they are right.

    Each pair counts the same. One weight of right matches for all keeps probabilities comparable
    between pairs.
    """
    losses = []
    for logit, pair in zip(_split(logits, pairs), pairs, strict=True):
        right = pair.is_right.to(logit)
        weight = pair.is_known.to(logit) * (1 + (RIGHT_WEIGHT - 1) * right)
        entropy = F.binary_cross_entropy_with_logits(logit, right, reduction="none")
        losses.append((weight * entropy).sum() / pair.is_known.sum().clamp(min=1))
    return torch.stack(losses).mean()


def geometry_loss(
    logits: Float[Tensor, " match"], pairs: Sequence[LabelledPair]
) -> Float[Tensor, ""]:
    """Return how far right matches lie from the epipolar lines that all matches give.

    The lines are those of the eight-point algorithm, in which each match counts as it is likely.
    Pairs of several planes, and those with too few right matches, are left out.
    """
    losses = [logits.new_zeros(())]
    for logit, pair in zip(_split(logits, pairs), pairs, strict=True):
        if not pair.is_rigid or int(pair.is_right.sum()) < MIN_RIGHT:
            continue
        xy_a, xy_b = (_normalised(pair.evidence.xy[:, side]) for side in (0, 1))
        fundamental = eight_point(xy_a, xy_b, logit.double().sigmoid())
        squared = squared_sampson(fundamental, xy_a[pair.is_right], xy_b[pair.is_right])
        residual = (squared + 1e-12).sqrt() / RESIDUAL
        losses.append(residual.clamp(max=LARGEST_RESIDUAL).mean().to(logits))
    return torch.stack(losses).sum() / max(len(losses) - 1, 1)


def eight_point(
    xy_a: Float64[Tensor, "match 2"],
    xy_b: Float64[Tensor, "match 2"],
    weight: Float64[Tensor, " match"],
) -> Float64[Tensor, "3 3"]:
    """Return the matrix of ``x_b^T F x_a = 0`` by weighted least squares, of norm 1."""
    a, b = (F.pad(xy, (0, 1), value=1.0) for xy in (xy_a, xy_b))
    products = (b[:, :, None] * a[:, None, :]).flatten(1)
    normal = products.T @ (weight[:, None] * products) / weight.sum().clamp(min=1e-9)
    fundamental: Tensor = torch.linalg.eigh(normal).eigenvectors[:, 0].view(3, 3)
    return fundamental


def squared_sampson(
    fundamental: Float64[Tensor, "3 3"],
    xy_a: Float64[Tensor, "match 2"],
    xy_b: Float64[Tensor, "match 2"],
) -> Float64[Tensor, " match"]:
    """Return squared Sampson distances."""
    a, b = (F.pad(xy, (0, 1), value=1.0) for xy in (xy_a, xy_b))
    line_b, line_a = a @ fundamental.T, b @ fundamental
    slope = (line_a[:, :2] ** 2).sum(dim=1) + (line_b[:, :2] ** 2).sum(dim=1)
    squared: Tensor = (b * line_b).sum(dim=1) ** 2 / (slope + 1e-12)
    return squared


def _split(logits: Tensor, pairs: Sequence[LabelledPair]) -> Sequence[Tensor]:
    return torch.split(logits, [len(pair) for pair in pairs])


def _normalised(xy: Float64[Tensor, "match 2"]) -> Float64[Tensor, "match 2"]:
    centred = xy - xy.mean(dim=0)
    return centred / centred.std().clamp(min=1e-9)
