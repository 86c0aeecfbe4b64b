"""What light, lens and camera do to the values of a patch, drawn for each patch.

Photos of one place by day and by night, in sun and under cloud, by two cameras, differ by more than
an exponent. Each function takes values in 0..1 of shape (patch, support, side, side), returns new
ones, and treats the supports of a patch, which show one place, alike.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Batch = NDArray[np.float32]
Chosen = NDArray[np.bool_]

NUM_KNOTS = 6
"""Ends of the straight pieces of a tone curve."""
NUM_QUANTILES = 15
"""Quantiles that stand for a histogram."""
MAX_VEIL = 0.5
"""Largest share of white that glare adds to a patch's brighter side."""


def apply_tone_curves(
    rng: np.random.Generator, values: Batch, chosen: Chosen, strength: float
) -> Batch:
    """Put rising curves of straight pieces on values; black stays black, and white white.

    Args:
        rng: draws the curves.
        values: of patches.
        chosen: which patches get one.
        strength: standard deviation of the logarithm of the slope of each piece.
    """
    slopes = np.exp(strength * rng.normal(size=(len(values), NUM_KNOTS - 1)))
    curve = np.cumsum(slopes, axis=1) / slopes.sum(axis=1, keepdims=True)
    curve = np.pad(curve, ((0, 0), (1, 0))).astype(np.float32)
    position = np.clip(values, 0, 1) * (NUM_KNOTS - 1)
    piece = np.minimum(position.astype(np.int64), NUM_KNOTS - 2)
    patch = np.arange(len(values))[:, None, None, None]
    low, high = curve[patch, piece], curve[patch, piece + 1]
    return _where(chosen, low + (position - piece) * (high - low), values)


def transfer_histograms(rng: np.random.Generator, values: Batch, chosen: Chosen) -> Batch:
    """Give patches a part of the way to the histogram of another patch of the batch.

    The quantiles of a patch's first support are moved towards those of the other; the part is
    drawn. The order of a patch's values stays.
    """
    donor = rng.permutation(len(values))
    part = rng.random(len(values))
    levels = np.linspace(0, 1, NUM_QUANTILES)
    result = values.copy()
    for patch in np.flatnonzero(chosen):
        own = np.quantile(values[patch, 0], levels)
        other = np.quantile(values[donor[patch], 0], levels)
        wanted = own + part[patch] * (other - own)
        # a flat piece has no inverse: knots rise by at least a thousandth of a grey level
        rise = np.arange(NUM_QUANTILES + 2) * 4e-6
        knots = np.concatenate([[0.0], own, [1.0]]) + rise
        result[patch] = np.interp(values[patch], knots, np.concatenate([[0.0], wanted, [1.0]]))
    return result


def add_gradients(
    rng: np.random.Generator,
    values: Batch,
    chosen: Chosen,
    max_ratio: float,
    supports: Sequence[float],
) -> Batch:
    """Let light fall off towards one side, or glare veil it, as the sky does; half of the patches
    each.

    Args:
        rng: draws directions and strengths.
        values: of patches.
        chosen: which patches get one.
        max_ratio: largest ratio of the light on two opposite sides of the first support.
        supports: factors on the width of what the channels show.
    """
    count, side = len(values), values.shape[-1]
    direction = rng.uniform(0, 2 * np.pi, (count, 1, 1, 1)).astype(np.float32)
    strength = rng.uniform(0, 1, (count, 1, 1, 1)).astype(np.float32)
    is_veil = rng.random((count, 1, 1, 1)) < 0.5
    axis = (np.arange(side, dtype=np.float32) - (side - 1) / 2) / side
    width = (np.asarray(supports, np.float32) / supports[0])[:, None, None]
    along = (np.cos(direction) * axis + np.sin(direction) * axis[:, None]) * width
    darkened = values * np.exp(strength * np.float32(np.log(max_ratio)) * along)
    veil = MAX_VEIL * strength * np.clip(along + 0.5, 0, 1)
    changed = np.where(is_veil, values + veil * (1 - values), darkened)
    return _where(chosen, np.clip(changed, 0, 1), values)


def add_sensor_noise(
    rng: np.random.Generator,
    values: Batch,
    shot_noise: float,
    read_noise: float,
    supports: Sequence[float],
) -> Batch:
    """Add noise whose variance is ``shot^2 value + read^2``, the levels drawn for each patch.

    Args:
        rng: draws the levels and the noise.
        values: of patches.
        shot_noise: largest standard deviation that photons give white.
        read_noise: largest standard deviation of black.
        supports: a wider one averages more pixels, so that its noise is less by that factor.
    """
    level = rng.uniform(0, 1, (2, len(values), 1, 1, 1)).astype(np.float32)
    variance = (shot_noise * level[0]) ** 2 * np.clip(values, 0, 1) + (read_noise * level[1]) ** 2
    width = (np.asarray(supports, np.float32) / supports[0])[:, None, None]
    noise = rng.standard_normal(values.shape, dtype=np.float32)
    noisy: Batch = np.clip(values + np.sqrt(variance) / width * noise, 0, 1).astype(np.float32)
    return noisy


def _where(chosen: Chosen, changed: NDArray[np.floating], values: Batch) -> Batch:
    picked: Batch = np.where(chosen[:, None, None, None], changed, values).astype(np.float32)
    return picked
