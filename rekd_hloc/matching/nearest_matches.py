"""The nearest of some matches around each match, in one image.

The search is exhaustive within a strip of the image. Matches are sorted by x and looked at in
blocks; the farthest neighbour that a few candidates give bounds how wide the strip must be. So
memory does not grow with the square of the matches, and all is numpy.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Float32
from numpy.typing import NDArray

NUM_NEIGHBOURS = 16
"""Nearest matches in image a, and as many in image b, that may support a match."""
TIE = np.float32(1 + 1e-6)
"""Squared distances that differ by rounding only are equal, and equal ones are all taken: what is
near does not depend on the order of the matches."""
MOST_TIES = 8 * NUM_NEIGHBOURS
"""Matches with more neighbours, as where many keypoints are at one place, have none."""
LARGEST = np.finfo(np.float32).max
MARGIN = 64
"""Matches on either side of a block that are tried first; changes speed only."""
BLOCK = 128
"""Matches that are compared at once; changes memory and speed only."""

Index = NDArray[np.int64]
Block = tuple[Index, Float32[np.ndarray, " row"], Index, Index]
"""Some matches, the squared distance of the farthest neighbour of each, and pairs of one of these
matches and a neighbour of it."""


class NearestMatches:
    """Finds neighbours of matches by their positions in one image.

    Args:
        xy: positions of all matches.
        pool: matches that may be neighbours.
        count: nearest ones of a match that are its neighbours.
    """

    def __init__(
        self, xy: Float[np.ndarray, "2 match"], pool: Index, count: int = NUM_NEIGHBOURS
    ) -> None:
        self._count = count
        self._xy = xy.astype(np.float32)
        self._pool = pool[np.argsort(self._xy[0, pool], kind="stable")]

    def blocks(self) -> Iterator[Block]:
        """Return the neighbours of all matches, block by block.

        Matches at the very place of a match, as itself, are none: they say nothing of it.
        """
        order = np.argsort(self._xy[0], kind="stable")
        for start in range(0, len(order), BLOCK):
            rows = order[start : start + BLOCK]
            squared, pool = self._candidates(rows)
            radius = _kth(squared, self._count) * TIE
            is_near = squared <= np.minimum(radius, LARGEST)[:, None]
            is_near &= np.count_nonzero(is_near, axis=1, keepdims=True) <= MOST_TIES
            row, near = np.divmod(np.flatnonzero(is_near), max(len(pool), 1))
            yield rows, radius, rows[row], pool[near]

    def squared_distance(self, row: Index, near: Index) -> Float32[np.ndarray, "*pair"]:
        """Return the squared distances between pairs of matches; shapes are broadcast."""
        x, y = (axis[row] - axis[near] for axis in self._xy)
        squared: Float32[np.ndarray, "*pair"] = x * x + y * y
        return squared

    def _candidates(self, rows: Index) -> tuple[Float32[np.ndarray, "row pool"], Index]:
        """Return the part of the pool that has all neighbours of ``rows``, and its distances.

        Args:
            rows: sorted by x.
        """
        x, num = self._xy[0, self._pool], len(self._pool)
        first, last = self._xy[0, rows[[0, -1]]]
        low, high = np.searchsorted(x, first), np.searchsorted(x, last, side="right")
        low, high = max(low - MARGIN, 0), min(high + MARGIN, num)
        squared = self._squared(rows, self._pool[low:high])
        reach = np.sqrt(_kth(squared, self._count).max() * TIE) * TIE
        is_left = low == 0 or x[low] < first - reach
        is_right = high == num or x[high - 1] > last + reach
        if not (is_left and is_right):
            low = np.searchsorted(x, first - reach)
            high = np.searchsorted(x, last + reach, side="right")
            squared = self._squared(rows, self._pool[low:high])
        return squared, self._pool[low:high]

    def _squared(self, rows: Index, pool: Index) -> Float32[np.ndarray, "row pool"]:
        """Return squared distances, infinite for those at the same place."""
        squared = self.squared_distance(rows[:, None], pool)
        squared[squared == 0] = np.inf
        return squared


def nearest_in_both(
    xy_a: Float[np.ndarray, "2 match"],
    xy_b: Float[np.ndarray, "2 match"],
    pool: Index,
    count: int = NUM_NEIGHBOURS,
) -> tuple[Index, Index]:
    """Return pairs of a match and a neighbour out of ``pool``, each pair once.

    Neighbours are the nearest ``count`` in image a and the nearest in image b; not those at the
    very place of the match in either.
    """
    search_a, search_b = (NearestMatches(xy, pool, count) for xy in (xy_a, xy_b))
    radius_a = np.zeros(xy_a.shape[1], dtype=np.float32)
    pairs = [np.zeros((2, 0), dtype=np.int64)]
    for rows, radius, row, near in search_a.blocks():
        radius_a[rows] = radius
        is_apart = search_b.squared_distance(row, near) > 0
        pairs.append(np.stack([row[is_apart], near[is_apart]]))
    for _, _, row, near in search_b.blocks():
        is_new = search_a.squared_distance(row, near) > radius_a[row]
        pairs.append(np.stack([row[is_new], near[is_new]]))
    row, near = np.concatenate(pairs, axis=1)
    return row, near


def _kth(squared: Float32[np.ndarray, "row pool"], count: int) -> Float32[np.ndarray, " row"]:
    """Return the squared distance of the last neighbour; infinite where there are not as many."""
    if squared.shape[1] < count:
        return np.full(len(squared), np.inf, dtype=np.float32)
    kth: Float32[np.ndarray, " row"] = np.partition(squared, count - 1, axis=1)[:, count - 1]
    return kth
