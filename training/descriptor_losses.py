"""The losses of the descriptor.

Hardest-in-batch triplet margin loss of HardNet (Mishchuk et al., NIPS 2017), with negatives from a
memory where there is one, the second-order similarity of SOSNet (Tian et al., CVPR 2019), and the
distance to a teacher's descriptors.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from training.descriptor_memory import PastNegatives

FAR = 10.0
"""Added to distances that must not count as negatives; unit vectors are at most 2 apart."""
NUM_NEIGHBOURS = 8
"""Nearest rows of each column that the second-order term compares (paper: 8)."""


def hardest_in_batch_loss(
    a: Float[Tensor, "pair channel"],
    b: Float[Tensor, "pair channel"],
    is_excluded: Bool[Tensor, "pair pair"],
    *,
    margin: float = 1.0,
    past: PastNegatives | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Return mean over pairs of ``max(0, margin + positive - hardest negative)``.

    The hardest negative of a pair is the nearest descriptor of the other column or of the past,
    seen from a or from b, that does not show the same point.

    Args:
        a, b: descriptors of unit length; row i of both shows point i.
        is_excluded: points that are not negatives of one another; the diagonal is implied.
        margin: by how much a negative must be farther away than the positive.
        past: descriptors of earlier batches as further negatives.

    Returns:
        The loss, and the mean positive and hardest negative distance.
    """
    distance = _distances(a, b)
    positive = distance.diagonal()
    negatives = distance + FAR * _with_diagonal(is_excluded).to(distance.dtype)
    hardest = torch.minimum(negatives.amin(dim=1), negatives.amin(dim=0))
    if past is not None:
        for column in (a, b):
            hardest = torch.minimum(hardest, _nearest_past(column, past))
    loss = (margin + positive - hardest).clamp(min=0).mean()
    return loss, positive.detach().mean(), hardest.detach().mean()


def second_order_loss(
    a: Float[Tensor, "pair channel"],
    b: Float[Tensor, "pair channel"],
    is_excluded: Bool[Tensor, "pair pair"],
    *,
    num_neighbours: int = NUM_NEIGHBOURS,
) -> Float[Tensor, ""]:
    """Return by how much the distances within a differ from those within b; mean over pairs.

    Two views of a point should be equally far from the two views of another. For each row the
    differences to its nearest rows in a or in b are put together as one Euclidean length.

    Args:
        a, b: descriptors of unit length; row i of both shows point i.
        is_excluded: rows that are not compared; the diagonal is implied.
        num_neighbours: nearest rows of each column that are compared.
    """
    same = _with_diagonal(is_excluded)
    within_a, within_b = _distances(a, a), _distances(b, b)
    is_near = torch.zeros_like(same)
    for distance in (within_a, within_b):
        reachable = distance.detach().masked_fill(same, FAR)
        nearest = reachable.topk(min(num_neighbours, len(a)), dim=1, largest=False).indices
        is_near.scatter_(1, nearest, value=True)
    difference = (within_a - within_b).masked_fill(same | ~is_near, 0.0)
    # the root has no slope at zero: equal distances have no gradient
    return difference.square().sum(dim=1).clamp(min=1e-12).sqrt().mean()


def teacher_loss(
    descriptors: Float[Tensor, "patch channel"], taught: Float[Tensor, "patch channel"]
) -> Float[Tensor, ""]:
    """Return the mean squared distance of descriptors to those that a teacher gives the patches."""
    return (descriptors - taught).square().sum(dim=1).mean()


def _nearest_past(
    rows: Float[Tensor, "pair channel"], past: PastNegatives
) -> Float[Tensor, " pair"]:
    """Distance to the nearest past descriptor; the search itself needs no gradient."""
    with torch.no_grad():
        similarity = (rows @ past.descriptors.T).masked_fill_(past.is_excluded, -FAR)
        value, nearest = similarity.max(dim=1)
    cosine = (rows * past.descriptors[nearest]).sum(dim=1)
    distance = (2 - 2 * cosine).clamp(min=1e-6).sqrt()
    return torch.where(value > -FAR, distance, FAR)


def _distances(
    a: Float[Tensor, "row_a channel"], b: Float[Tensor, "row_b channel"]
) -> Float[Tensor, "row_a row_b"]:
    """Euclidean distances of unit vectors."""
    return (2 - 2 * (a @ b.T)).clamp(min=1e-6).sqrt()


def _with_diagonal(is_excluded: Bool[Tensor, "pair pair"]) -> Bool[Tensor, "pair pair"]:
    return is_excluded | torch.eye(len(is_excluded), dtype=torch.bool, device=is_excluded.device)
