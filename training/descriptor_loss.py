"""The hardest-in-batch triplet margin loss of HardNet (Mishchuk et al., NIPS 2017)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

FAR = 10.0
"""Added to distances that must not count as negatives; unit vectors are at most 2 apart."""


def hardest_in_batch_loss(
    a: Float[Tensor, "pair channel"],
    b: Float[Tensor, "pair channel"],
    is_excluded: Bool[Tensor, "pair pair"],
    *,
    margin: float = 1.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean over pairs of ``max(0, margin + positive - hardest negative)``.

    The hardest negative of a pair is the nearest descriptor of the other column, seen from a or
    from b, that does not show the same place.

    Args:
        a, b: descriptors of unit length; row i of both shows place i.
        is_excluded: places that are not negatives of one another; the diagonal is implied.
        margin: by how much a negative must be farther away than the positive.

    Returns:
        The loss, and the mean positive and hardest negative distance.
    """
    distance = (2 - 2 * (a @ b.T)).clamp(min=1e-6).sqrt()
    positive = distance.diagonal()
    same = is_excluded | torch.eye(len(a), dtype=torch.bool, device=a.device)
    others = distance + FAR * same.to(distance.dtype)
    hardest = torch.minimum(others.amin(dim=1), others.amin(dim=0))
    loss = (margin + positive - hardest).clamp(min=0).mean()
    return loss, positive.detach().mean(), hardest.detach().mean()
