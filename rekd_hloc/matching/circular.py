"""Kernel density of angles on the circle: its maxima, and whether so many fell together by chance.

The density is kept as a Fourier series: one pass over the samples gives the coefficients, one FFT
the values on a grid, Newton's method the exact maxima. So the result rotates with the samples to
rounding error, and does not depend on their order.
"""

import math

import torch
from jaxtyping import Complex128, Float, Float64
from torch import Tensor

from rekd_hloc.geometry import TWO_PI, wrap_angle

GRID = 720
"""Places where maxima are looked for, half a degree apart."""
CUT_OFF = 5.3
"""Harmonics up to CUT_OFF / kernel are kept; the first one left out weighs exp(-5.3^2 / 2) = 1e-6.
"""
NEWTON_STEPS = 4
"""From half a grid step away, three reach rounding error; one is for peaks that nearly merge."""
EQUAL_DENSITY = 1e-9
"""Maxima whose heights differ by less count as equally high."""


def find_modes(
    angle: Float[Tensor, " sample"],
    *,
    kernel: float,
    weight: Float[Tensor, " sample"] | None = None,
) -> Float64[Tensor, " mode"]:
    """Maxima of the density of angles above that of the uniform distribution, highest first.

    Args:
        angle: radians.
        kernel: standard deviation of the wrapped Gaussian laid on each sample, in radians.
        weight: how much each sample counts, positive; all the same by default.

    Returns:
        Radians in [0, 2 pi); equally high ones in ascending order; empty without samples, or if
        these are spread evenly.
    """
    if len(angle) == 0:
        return torch.zeros(0, dtype=torch.float64, device=angle.device)
    series = _density_series(angle, kernel, weight)
    density = torch.fft.irfft(series, n=GRID) * GRID
    is_peak = (density > density.roll(1)) & (density >= density.roll(-1))
    is_peak &= density > 1 + EQUAL_DENSITY
    start = torch.nonzero(is_peak)[:, 0].double() * (TWO_PI / GRID)
    peaks = wrap_angle(_climb(series, start))
    height = _derivatives(series, peaks)[0]
    ascending = torch.argsort(peaks)
    rank = torch.round(height[ascending] / EQUAL_DENSITY)
    return peaks[ascending][torch.argsort(rank, descending=True, stable=True)]


def density_at(
    at: Float[Tensor, " place"],
    angle: Float[Tensor, " sample"],
    *,
    kernel: float,
    weight: Float[Tensor, " sample"] | None = None,
) -> Float64[Tensor, " place"]:
    """Return the density of angles at some places; 1 is that of the uniform distribution.

    Args:
        at: radians.
        angle: samples in radians, at least one.
        kernel: as of :func:`find_modes`.
        weight: likewise.
    """
    return _derivatives(_density_series(angle, kernel, weight), at.double())[0]


def log10_false_alarms(num_samples: int, num_inside: int, share: float) -> float:
    """Logarithm of a bound on how many arcs hold as many samples if these lie uniformly.

    An arc can be rotated until it begins at a sample without losing one. So the expected number of
    arcs that begin at a sample and hold ``num_inside`` or more, n P(Bin(n - 1, share) >= k - 1),
    bounds the probability that any arc of that length does: the number of false alarms of
    Desolneux, Moisan and Morel (2000).

    Args:
        num_samples: n, on the whole circle.
        num_inside: k, on the arc.
        share: of the circle that the arc covers, in [0, 1].
    """
    if num_samples == 0:
        return -math.inf
    return math.log10(num_samples) + _log10_binomial_tail(num_samples - 1, num_inside - 1, share)


def _density_series(
    angle: Tensor, kernel: float, weight: Tensor | None = None
) -> Complex128[Tensor, " harmonic"]:
    """Fourier coefficients of the density, whose mean over the circle is 1."""
    order = torch.arange(math.ceil(CUT_OFF / kernel) + 1, device=angle.device).double()
    phase = angle.double()[:, None] * order
    if weight is None:
        mean = torch.complex(phase.cos().mean(dim=0), -phase.sin().mean(dim=0))
    else:
        share = weight.double() / weight.double().sum()
        mean = torch.complex(share @ phase.cos(), -(share @ phase.sin()))
    return mean * torch.exp(-0.5 * (order * kernel) ** 2)


def _climb(series: Tensor, start: Tensor) -> Tensor:
    """Return the maxima next to grid maxima, by Newton steps that stay within a grid step."""
    step = TWO_PI / GRID
    angle = start
    for _ in range(NEWTON_STEPS):
        _, slope, curvature = _derivatives(series, angle)
        move = torch.where(curvature < 0, -slope / curvature, torch.zeros_like(slope))
        angle = torch.clamp(angle + move, start - step, start + step)
    return angle


def _derivatives(series: Tensor, angle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value, slope and curvature of the density at angles."""
    order = torch.arange(1, len(series), device=series.device).double()
    phase = angle[:, None] * order
    wave = 2 * series[1:] * torch.complex(phase.cos(), phase.sin())
    value = 1 + wave.real.sum(dim=1)
    slope = -(order * wave.imag).sum(dim=1)
    curvature = -(order**2 * wave.real).sum(dim=1)
    return value, slope, curvature


def _log10_binomial_tail(num_trials: int, at_least: int, probability: float) -> float:
    """log10 P(Bin(num_trials, probability) >= at_least), exact where it underflows too."""
    if at_least <= 0 or probability >= 1:
        return 0.0
    if at_least > num_trials or probability <= 0:
        return -math.inf
    hits = torch.arange(at_least, num_trials + 1, dtype=torch.float64)
    trials = torch.tensor(float(num_trials), dtype=torch.float64)
    choices = torch.lgamma(trials + 1) - torch.lgamma(hits + 1) - torch.lgamma(trials - hits + 1)
    terms = choices + hits * math.log(probability) + (trials - hits) * math.log1p(-probability)
    return float(torch.logsumexp(terms, dim=0)) / math.log(10)
