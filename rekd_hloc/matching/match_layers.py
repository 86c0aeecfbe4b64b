"""Layers of the match network: what a match hears of its neighbours, and of its image pair."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from rekd_hloc.matching.match_evidence import NUM_NEIGHBOURS

EDGE_VALUES = 8
"""Numbers of a neighbour's frames that each head passes on."""


class NeighbourLayer(nn.Module):
    """Attention to neighbours, then to the whole pair.

    Gates say how much each neighbour counts in each head. They are sigmoids and not shares of one,
    for how many neighbours agree matters more than which of them agrees most. Attentive context
    normalisation (Sun et al., "ACNe", 2020) sets each match against those of its pair that count.

    Args:
        width: numbers of a match.
        edge_width: numbers of an edge.
        num_heads: gates of an edge; they divide the width.
    """

    def __init__(self, *, width: int, edge_width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.attend = nn.Linear(width, 1)
        self.value = nn.Linear(width, width)
        self.gate_edge = nn.Linear(edge_width, num_heads)
        self.gate_near = nn.Linear(width, num_heads, bias=False)
        self.gate_own = nn.Linear(width, num_heads, bias=False)
        self.edge_value = nn.Linear(edge_width, EDGE_VALUES)
        self.merge = nn.Linear(width + num_heads * (EDGE_VALUES + 1), width)
        self.summary = nn.Linear(width + 1, 2 * width)
        self.inner = nn.Linear(2 * width, 2 * width)
        self.outer = nn.Linear(2 * width, width)

    def forward(
        self,
        state: Float[Tensor, "match width"],
        edge: Float[Tensor, "edge edge_width"],
        row: Int64[Tensor, " edge"],
        near: Int64[Tensor, " edge"],
        pair: Int64[Tensor, " match"],
        num_pairs: int,
    ) -> Float[Tensor, "match width"]:
        """Return the new state of each match."""
        own = self.norm(state)
        counts = torch.sigmoid(self.attend(own))
        mean, spread, total = _weighted_moments(own, counts, pair, num_pairs)
        own = (own - mean[pair]) / spread[pair]
        heard = self._listen(own, edge, row, near)
        of_pair = self.summary(torch.cat([mean, total], dim=1))
        inner = self.inner(torch.cat([own, heard], dim=1)) + of_pair[pair]
        new: Tensor = state + heard + self.outer(nn.functional.silu(inner))
        return new

    def _listen(self, own: Tensor, edge: Tensor, row: Tensor, near: Tensor) -> Tensor:
        logit = self.gate_edge(edge)
        logit = logit + self.gate_near(own).index_select(0, near)
        logit = logit + self.gate_own(own).index_select(0, row)
        gate = torch.sigmoid(logit)[:, :, None]
        value = self.value(own).index_select(0, near)
        value = value.view(len(near), self.num_heads, own.shape[1] // self.num_heads)
        told = gate * self.edge_value(edge)[:, None, :]
        message = torch.cat([(gate * value).flatten(1), told.flatten(1), gate[:, :, 0]], dim=1)
        summed = message.new_zeros(len(own), message.shape[1]).index_add(0, row, message)
        heard: Tensor = self.merge(summed / NUM_NEIGHBOURS)
        return heard


def _weighted_moments(
    values: Tensor, weight: Tensor, pair: Tensor, num_pairs: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and deviation in each pair, and the mean weight."""

    def sum_of_pairs(rows: Tensor) -> Tensor:
        return rows.new_zeros(num_pairs, rows.shape[1]).index_add(0, pair, rows)

    total = sum_of_pairs(weight)
    mean = sum_of_pairs(weight * values) / (total + 1e-6)
    square = sum_of_pairs(weight * (values - mean[pair]) ** 2) / (total + 1e-6)
    count = sum_of_pairs(torch.ones_like(weight))
    return mean, (square + 1e-2).sqrt(), total / count.clamp(min=1)
