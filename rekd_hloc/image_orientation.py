"""The eight orientations of EXIF: between an image as its file has it and as it is seen upright.

COLMAP, hloc and this package use the file's own pixel grid, and viewers show the upright one.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

SWAPS_SIDES = frozenset((5, 6, 7, 8))
"""Orientations by a quarter: the upright image is as wide as the file's is high."""
_MIRRORED = {2, 4, 5, 7}
_QUARTERS = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: -1, 7: -1, 8: 1}
"""Counter-clockwise, of the file's grid once it is mirrored left to right where it must be."""


def from_file_grid(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return an image upright, from the file's grid; (height, width, ...)."""
    if orientation in _MIRRORED:
        values = values[:, ::-1]
    return np.ascontiguousarray(np.rot90(values, _QUARTERS[orientation]))


def to_file_grid(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return an image in the file's grid, from the upright one; (height, width, ...)."""
    values = np.rot90(values, -_QUARTERS[orientation])
    return np.ascontiguousarray(values[:, ::-1] if orientation in _MIRRORED else values)
