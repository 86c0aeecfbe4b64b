"""Descriptors of past batches, which serve as further negatives.

Cross-batch memory (Wang et al., CVPR 2020): once the warm-up is over a network changes little in a
few steps, so what it said of the last batches is still nearly what it would say. Thousands of
negatives then cost one matrix product, where a larger batch would cost as many patches.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from training.places import Places, show_same_point


@dataclass(frozen=True, eq=False)
class PastNegatives:
    """Hold past descriptors, and which of them each row of a batch must leave out.

    Attributes:
        descriptors: of unit length, without gradient.
        is_excluded: true where a row and a past descriptor show (nearly) the same point.
    """

    descriptors: Float[Tensor, "past channel"]
    is_excluded: Bool[Tensor, "pair past"]


class DescriptorMemory:
    """The last descriptors of both columns of past batches, with the places that they show.

    Args:
        size: number of descriptors; the oldest ones give way.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._descriptors: Tensor | None = None
        self._places: Places | None = None

    def __len__(self) -> int:
        """Return number of descriptors held."""
        return 0 if self._descriptors is None else len(self._descriptors)

    def negatives(self, places: Places, exclusion: float) -> PastNegatives | None:
        """Return what the rows at these places are compared with, None while nothing is held.

        Args:
            places: of the batch's rows.
            exclusion: see :func:`training.places.show_same_point`.
        """
        if self._descriptors is None or self._places is None:
            return None
        excluded = show_same_point(places, self._places, exclusion)
        return PastNegatives(self._descriptors, excluded)

    def extend(
        self, a: Float[Tensor, "pair channel"], b: Float[Tensor, "pair channel"], places: Places
    ) -> None:
        """Add a batch's descriptors; a row of both columns shows the place of that row."""
        if self.size == 0:
            return
        descriptors, added = torch.cat([a.detach(), b.detach()]), places.joined(places)
        if self._descriptors is not None and self._places is not None:
            descriptors = torch.cat([self._descriptors, descriptors])
            added = self._places.joined(added)
        first = max(len(descriptors) - self.size, 0)
        rows = torch.arange(first, len(descriptors), device=descriptors.device)
        self._descriptors, self._places = descriptors[rows], added[rows]

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds; empty while nothing is held."""
        if self._descriptors is None or self._places is None:
            return {}
        return {"descriptors": self._descriptors, **vars(self._places)}

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from the state of a checkpoint."""
        if not state:
            return
        places = {name: values for name, values in state.items() if name != "descriptors"}
        self._descriptors = state["descriptors"].to(device)
        self._places = Places(**places).to(device)
