"""How fast this machine convolves at best, with the threads of this run: the roof of a network."""

import time
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

CHANNELS = 64
SIDE_PX = 96
BATCH = 4
"""A 3x3 convolution of 1.4 GMAC whose tensors stay in the cache."""


@torch.inference_mode()
def measure_roof(repeats: int = 9) -> float:
    """Return the most GMAC/s that a large convolution in float32 reached."""
    hidden = torch.rand(BATCH, CHANNELS, SIDE_PX, SIDE_PX).to(memory_format=torch.channels_last)
    weight = torch.rand(CHANNELS, CHANNELS, 3, 3).to(memory_format=torch.channels_last)
    gmac = BATCH * SIDE_PX**2 * CHANNELS**2 * 9 / 1e9
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        F.conv2d(hidden, weight, padding=1)
        best = min(best, time.perf_counter() - start)
    return gmac / best


class MacCounter:
    """Counts multiplications of convolutions and matrix products while it is entered."""

    def __init__(self) -> None:
        self._counter: Any = FlopCounterMode(display=False)

    def __enter__(self) -> Self:
        """Begin to count."""
        self._counter.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop counting."""
        self._counter.__exit__(*error)

    @property
    def gmac(self) -> float:
        """Return billions of multiplications with an addition."""
        return float(self._counter.get_total_flops()) / 2e9
