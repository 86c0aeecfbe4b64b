"""Patches that look like themselves elsewhere: their alignment has more than one minimum."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rekd_hloc.refinement.least_squares import Window

MAX_CORRELATION = 0.95
"""A patch that correlates so with itself, elsewhere within reach, is repeated."""
NEAREST, FARTHEST = 2.5, 7.0
"""Of the distances that are looked at, in samples: nearer, any smooth patch is like itself;
farther, no alignment goes."""


def is_repeated(values: Float[Tensor, "patch sample"], window: Window) -> Bool[Tensor, " patch"]:
    """Say which patches are repeated.

    The correlation with itself, at all distances at once, is the inverse Fourier transform of the
    power spectrum, over the same of the weights.

    Args:
        values: normalised by the window.
        window: of the patches.
    """
    if len(values) == 0:  # MKL refuses to transform nothing
        return torch.zeros(0, dtype=torch.bool, device=values.device)
    side = window.side
    size = [side + int(FARTHEST) + 1] * 2
    taper = window.weights.sqrt().reshape(side, side)
    patches = values.reshape(-1, side, side) * taper
    overlap = _autocorrelate(taper, size)
    correlation = _autocorrelate(patches, size) / overlap.clamp(min=1e-3 * float(overlap.max()))
    lags = torch.fft.fftfreq(size[0], 1 / size[0], device=values.device)
    distance = torch.hypot(lags[:, None], lags[None])
    is_in_ring = (distance >= NEAREST) & (distance <= FARTHEST)
    repeated: Tensor = (correlation[:, is_in_ring] > MAX_CORRELATION).any(dim=1)
    return repeated


def _autocorrelate(patches: Tensor, size: list[int]) -> Tensor:
    spectrum = torch.fft.rfft2(patches, s=size)
    correlation: Tensor = torch.fft.irfft2(spectrum.abs().square(), s=size)
    return correlation
