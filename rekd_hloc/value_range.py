"""Black and white of images that are not of 8 bits, from their own values.

Sensors of 10, 12 and 14 bits are stored in 16, thermal cameras count hundredths of a kelvin, and
floats have any unit. The detector needs contrast: at a tenth of it half of the keypoints are gone.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (0.1, 50.0, 99.9)
"""Of all values; those in the middle lie between the outer two, so that no dead pixel counts."""
USED_SHARE = 0.5
"""Of the whole range that the middle must fill, so that 0 is black. Two images of one camera on
both sides of that limit differ by a factor of 2 in contrast, which keeps 9 keypoints of 10."""
MAX_SAMPLE = 1 << 20
"""Values that percentiles are taken from."""
NO_NUMBER = 1e30
"""A float of at least that size stands for no value, as FLT_MAX does in maps."""


@dataclass(frozen=True)
class ValueRange:
    """Hold the values of a file that become 0 and 1.

    Attributes:
        black: becomes 0, and so does all below.
        white: becomes 1, and so does all above.
        fill: what stands in for values that are no numbers.
    """

    black: float
    white: float
    fill: float = 0.0

    @property
    def span(self) -> float:
        """Return the difference of white and black, which is positive."""
        return self.white - self.black


def find_value_range(values: NDArray[Any], usable: NDArray[np.bool_] | None) -> ValueRange:
    """Return black and white of an image.

    Where no value is below zero, black is 0. White is then the least of 1 (floats only), 255, 511,
    1023, ... 65535, ... that no value exceeds: 4095 for 12 bits in 16. If 99.8 % of the values
    fill less than half of that, or if there are values below zero, black is the percentile 0.1 of
    the values, and white is 99.9.

    Args:
        values: (height, width) or (height, width, 3), of any kind of numbers.
        usable: (height, width), False where values do not count; all count when None.
    """
    sample = _sample(values, usable)
    if sample.size == 0:
        return ValueRange(0.0, 1.0)
    low, middle, high = (float(v) for v in np.percentile(sample, PERCENTILES))
    least, most = _extremes(values, usable)
    if least >= 0:
        white = _whole_range(most, values.dtype.kind == "f")
        if high - low >= USED_SHARE * white or high <= low:
            return ValueRange(0.0, white, middle)
    if high > low:
        return ValueRange(low, high, middle)
    return ValueRange(least, most if most > least else least + 1.0, middle)


def is_number(values: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return (height, width), False where a channel holds no number; None if all are numbers."""
    if values.dtype.kind != "f":
        return None
    with np.errstate(invalid="ignore"):
        is_finite = np.abs(values) < NO_NUMBER
    finite = is_finite.all(axis=2) if values.ndim == 3 else is_finite
    return None if finite.all() else np.asarray(finite)


def _whole_range(most: float, is_float: bool) -> float:
    if is_float and most <= 1.0:
        return 1.0
    return float(2 ** max(math.ceil(math.log2(most + 1.0)), 8) - 1)


def _sample(values: NDArray[Any], usable: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    step = max(math.ceil(math.sqrt(values.size / MAX_SAMPLE)), 1)
    sample = values[::step, ::step]
    if usable is not None:
        sample = sample[usable[::step, ::step]]
        sample = sample if sample.size else values[usable]
    return np.asarray(sample, dtype=np.float64)


def _extremes(values: NDArray[Any], usable: NDArray[np.bool_] | None) -> tuple[float, float]:
    counted = values if usable is None else values[usable]
    return float(counted.min()), float(counted.max())
