"""Matches as maps of their surroundings: by their keypoints' frames, or fitted to other matches.

A match of two keypoints with scales and angles is a similarity transform, which says nearly where
the matches around it lie. Where enough of them do, an affine map is fitted to them: it says so
several times as exactly, also where a surface is seen at a slant.

Offsets are in units of the keypoint's scale in image b. So nothing here changes if either image is
rotated, scaled or shifted.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import NDArray

from rekd_hloc.matching.rotations import match_rotations, scales_of_matches, values_of_matches
from rekd_hloc.types import Keypoints, Matches

Index = NDArray[np.int64]
Offsets = Float64[np.ndarray, "2 pair"]

CHUNK = 1 << 16
"""Pairs of matches that are compared at once; changes memory only."""


@dataclass(frozen=True)
class Tolerance:
    """How far from its prediction a match may be.

    Attributes:
        relative: largest error of the position, as a share of the distance; and
        scales: this times the predicting keypoint's scale, added to it.
        rotation_deg: largest difference of the rotations of both matches.
        octaves: largest difference of log2 of their scale ratios.
    """

    relative: float
    scales: float
    rotation_deg: float
    octaves: float


BY_FRAME = Tolerance(relative=0.3, scales=8.0, rotation_deg=25.0, octaves=1.0)
"""Of what one match's frames predict; wide, for scales come in steps and surfaces are no planes."""
BY_MAP = Tolerance(relative=0.1, scales=2.0, rotation_deg=45.0, octaves=1.5)
"""Of what a fitted map predicts: tight in position; frames differ where perspective is strong.
Chosen on photos of planes and of a facade: relative errors of 0.05 and 0.15 trade 1 % of precision
for 1 % of right matches."""
MIN_FITTED = 5
"""Matches that an affine map is fitted to, at least: two more than it needs."""
RIDGE = 0.1
"""Weight of the own frames against one match, which keeps maps sane where matches are in a line."""


@dataclass(frozen=True, eq=False)
class MatchFrames:
    """The matches as similarity transforms from image a to image b, on the CPU.

    Attributes:
        xy_a: positions in image a.
        xy_b: positions in image b.
        scale_b: of the keypoints in image b.
        ratio: scale in image b over scale in image a.
        direction: cosine and sine of angle in image b minus angle in image a.
    """

    xy_a: Float64[np.ndarray, "2 match"]
    xy_b: Float64[np.ndarray, "2 match"]
    scale_b: Float64[np.ndarray, " match"]
    ratio: Float64[np.ndarray, " match"]
    direction: Float64[np.ndarray, "2 match"]

    @classmethod
    def of(cls, matches: Matches, a: Keypoints, b: Keypoints) -> Self:
        """Return the frames of all matches.

        Raises:
            ValueError: a match names a keypoint that is not there, a scale is not positive, or a
                value is not finite.
        """
        index = matches.index.cpu()
        scale_a = scales_of_matches("scale_a", a.scale, index[:, 0]).numpy()
        scale_b = scales_of_matches("scale_b", b.scale, index[:, 1]).numpy()
        rotation = match_rotations(matches, a.angle, b.angle).numpy()
        xy_a, xy_b = (
            np.stack([values_of_matches(f"xy_{side}", axis, column).numpy() for axis in k.xy.T])
            for side, k, column in (("a", a, index[:, 0]), ("b", b, index[:, 1]))
        )
        direction = np.stack([np.cos(rotation), np.sin(rotation)])
        return cls(xy_a, xy_b, scale_b, scale_b / scale_a, direction)

    def __len__(self) -> int:
        return len(self.ratio)

    def linear_maps(self) -> Float64[np.ndarray, "match 2 2"]:
        """Return what takes offsets in image a to offsets in image b, in pixels."""
        cos, sin = self.direction * self.ratio
        return np.moveaxis(np.array([[cos, -sin], [sin, cos]]), 2, 0)

    def offsets(self, row: Index, near: Index) -> tuple[Offsets, Offsets]:
        """Return the way from ``row`` to ``near`` in image b: as ``row`` predicts it, and as it is.

        Both are in units of the scale of ``row`` in image b.
        """
        x_a, y_a = (axis[near] - axis[row] for axis in self.xy_a)
        cos, sin = (axis[row] for axis in self.direction)
        scale = self.scale_b[row]
        stretch = self.ratio[row] / scale
        predicted = np.stack([cos * x_a - sin * y_a, sin * x_a + cos * y_a]) * stretch
        return predicted, np.stack([axis[near] - axis[row] for axis in self.xy_b]) / scale

    def agree(self, row: Index, near: Index) -> Bool[np.ndarray, " pair"]:
        """Say whether the frames of ``row`` predict ``near``.

        The answer is the same from b to a: there, errors and distances are divided by one number.
        """
        return _in_chunks(lambda r, n: self._fit(r, n, *self.offsets(r, n), BY_FRAME), row, near)

    def agree_with_maps(
        self, row: Index, near: Index, maps: Float64[np.ndarray, "match 2 2"]
    ) -> Bool[np.ndarray, " pair"]:
        """Say whether the maps of ``near``, of :meth:`fit_maps`, predict ``row``."""

        def agree(row: Index, near: Index) -> Bool[np.ndarray, " pair"]:
            predicted, true = self.offsets(near, row)
            corrected = np.einsum("pij,jp->ip", maps[near], predicted)
            return self._fit(row, near, corrected, true, BY_MAP)

        return _in_chunks(agree, row, near)

    def fit_maps(
        self, row: Index, near: Index
    ) -> tuple[Float64[np.ndarray, "match 2 2"], Bool[np.ndarray, " match"]]:
        """Fit an affine map about each match ``row`` to its supporters ``near``.

        Least squares, in which errors count in proportion to the distance from the match; the
        frames' own prediction is one more, weak, observation.

        Returns:
            What to multiply predicted offsets with, and which matches have enough supporters.
        """
        num = len(self)
        normal, change = np.zeros((2, 2, 2, num))
        for start in range(0, len(row), CHUNK):
            part = slice(start, start + CHUNK)
            predicted, true = self.offsets(row[part], near[part])
            weight = 1 / (_squared_length(predicted) + BY_FRAME.scales**2)
            for i in range(2):
                for j in range(2):
                    terms = weight * predicted[j]
                    normal[i, j] += np.bincount(row[part], terms * predicted[i], num)
                    change[i, j] += np.bincount(row[part], terms * (true[i] - predicted[i]), num)
        unit = np.eye(2)
        ridged = normal.transpose(2, 0, 1) + RIDGE * unit
        maps = unit + change.transpose(2, 0, 1) @ np.linalg.inv(ridged)
        return maps, np.bincount(row, minlength=num) >= MIN_FITTED

    def _fit(
        self, row: Index, near: Index, predicted: Offsets, true: Offsets, tolerance: Tolerance
    ) -> Bool[np.ndarray, " pair"]:
        """Say whether offsets, and the frames of both matches, agree within a tolerance."""
        distance = np.sqrt(np.maximum(_squared_length(predicted), _squared_length(true)))
        allowed = tolerance.relative * distance + tolerance.scales
        cosine = sum(axis[row] * axis[near] for axis in self.direction)
        ratio, factor = self.ratio[near] / self.ratio[row], 2.0**tolerance.octaves
        fits: Bool[np.ndarray, " pair"] = _squared_length(predicted - true) <= allowed**2
        fits &= cosine >= math.cos(math.radians(tolerance.rotation_deg))
        fits &= (ratio <= factor) & (ratio >= 1 / factor)
        return fits


def _squared_length(offsets: Offsets) -> Float64[np.ndarray, " pair"]:
    squared: Float64[np.ndarray, " pair"] = offsets[0] ** 2 + offsets[1] ** 2
    return squared


def _in_chunks(
    agree: Callable[[Index, Index], Bool[np.ndarray, " pair"]], row: Index, near: Index
) -> Bool[np.ndarray, " pair"]:
    """Return what a function says of all pairs, asked of some at a time."""
    answer = np.zeros(len(row), dtype=bool)
    for start in range(0, len(row), CHUNK):
        part = slice(start, start + CHUNK)
        answer[part] = agree(row[part], near[part])
    return answer
