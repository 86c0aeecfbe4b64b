"""The exponential moving average of a network's weights over the steps of a training.

The average lies nearer to the middle of the flat region that the last steps wander about in, and
validates better than any of them. It is what is validated and exported; the optimiser goes on from
the weights themselves.
"""

import copy
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """A second network whose parameters and batch statistics are averages of the first one's.

    Args:
        network: whose weights are averaged, as they are before the first step.
        decay: share of the average that a step keeps. In the first steps it is less,
            ``(1 + step) / (10 + step)``, so that random weights at the start are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take the weights after a step, counted from 0, into the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = network.state_dict()
        for name, average in self.network.state_dict().items():
            if average.is_floating_point():
                average.lerp_(current[name], 1 - decay)
            else:  # the counter of batches
                average.copy_(current[name])

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return self.network.state_dict()

    def load(self, state: dict[str, Any]) -> None:
        """Go on from the state of a checkpoint."""
        self.network.load_state_dict(state)
