"""Guided matching: where the matches of an image pair lead, more matches are found.

The most similar descriptor is often not that of the same point: one window looks like the next. But
matches that their neighbours support say where a keypoint lies in the other image, nearly to the
pixel. A keypoint there is taken if its descriptor is about as similar as those of the matches are.

COLMAP's guided matching looks along epipolar lines of one model of the whole pair. Here the
:mod:`consensus <rekd_hloc.matching.consensus>` of the matches around a keypoint guides, so that a
line has few places left and each surface has its own map.

Tolerances are in units of distances and of the keypoints' own scales. So the result does not change
if either image is rotated, scaled or shifted.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from numpy.typing import NDArray
from torch import Tensor

from rekd_hloc.matching.consensus import MIN_SHARE, MIN_SUPPORT, find_neighbours
from rekd_hloc.matching.match_frames import BY_MAP, Index, MatchFrames
from rekd_hloc.matching.nearest import comparable
from rekd_hloc.types import Features, Keypoints, Matches

MIN_GUIDES = 8
"""Matches with a map without which nothing is added."""
LEAST_SIMILAR = 0.02
"""Share of an image pair's guides that may be less similar than a match that is added. Of 0.02,
0.05 and 0.1 on tourists' photos, 26, 23 and 19 % more matches are right (docs/experiments.md)."""
REACH = 2.0
"""How far from a guide its map is trusted: this times the distance of its farthest neighbour."""
MOST_STRETCH = 4.0
"""By which the map of a guide may stretch a direction, or squeeze it, over what its frames say."""
BLOCK = 256
"""Keypoints whose places are compared at once; changes memory and speed only."""
PAIRS_AT_ONCE = 1 << 14
"""Pairs of descriptors that are compared at once; likewise."""

Points = Float32[np.ndarray, "2 point"]


@torch.no_grad()
def add_guided(matches: Matches, a: Features, b: Features) -> Matches:
    """Return the matches, and those that they lead to.

    Args:
        matches: of images a and b, most of them right: mutual nearest neighbours after a filter.
        a: all features of image a, with true scales and angles.
        b: likewise of image b.

    Returns:
        The matches that were given, with their scores, then others of keypoints that had none. The
        score of an added match is the share of the guides about it that predict it, in (0, 1].

    Raises:
        ValueError: a match names a keypoint that is not there, a scale is not positive, a value is
            not finite, or descriptors that cannot be compared or are not of length 1.
    """
    pair = _FeaturePair.of(a, b)
    guides = Guides.of(matches, pair)
    if guides is None:
        return matches
    free = [
        np.setdiff1d(np.arange(len(features)), column)
        for features, column in zip((a, b), matches.index.cpu().numpy().T, strict=True)
    ]
    candidates = guides.find_candidates(pair, *free)
    share = guides.support(candidates, pair)
    candidates, share = candidates[share > 0], share[share > 0]
    is_best = _is_best_of_both(candidates, pair.similarity(candidates))
    index, score = torch.from_numpy(candidates[is_best]), torch.from_numpy(share[is_best])
    index = torch.cat([matches.index, index.to(matches.index.device)])
    return replace(matches, index=index, score=torch.cat([matches.score, score.to(matches.score)]))


@dataclass(frozen=True, eq=False)
class _FeaturePair:
    """Keypoints and descriptors of two images."""

    a: Keypoints
    b: Keypoints
    descriptors_a: Float[Tensor, "keypoint_a channel"]
    descriptors_b: Float[Tensor, "keypoint_b channel"]

    @classmethod
    def of(cls, a: Features, b: Features) -> Self:
        """Return those of features.

        Raises:
            ValueError: descriptors cannot be compared, or a position is not finite.
        """
        for side, features in (("a", a), ("b", b)):
            if not bool(torch.isfinite(features.keypoints.xy).all()):
                raise ValueError(f"keypoints of image {side} have a position that is nan or inf")
        return cls(a.keypoints, b.keypoints, *comparable(a.descriptors, b.descriptors))

    def positions(
        self, free_a: Index, free_b: Index
    ) -> tuple[Float32[np.ndarray, "2 free_a"], Float32[np.ndarray, "2 free_b"]]:
        """Return where some keypoints of both images are."""
        first, second = (
            np.ascontiguousarray(keypoints.xy.cpu().float().numpy()[free].T)
            for keypoints, free in ((self.a, free_a), (self.b, free_b))
        )
        return first, second

    def similarity(self, index: Int64[np.ndarray, "pair 2"]) -> Float[np.ndarray, " pair"]:
        """Return the cosines of the descriptors of pairs of keypoints."""
        of_a, of_b = torch.from_numpy(index.T.copy()).to(self.descriptors_a.device)
        cosine = np.empty(len(index))
        for start in range(0, len(index), PAIRS_AT_ONCE):
            part = slice(start, start + PAIRS_AT_ONCE)
            product = self.descriptors_a[of_a[part]] * self.descriptors_b[of_b[part]]
            cosine[part] = product.sum(dim=1).cpu().numpy()
        return cosine


@dataclass(frozen=True, eq=False)
class Guides:
    """Matches with an affine map each, which is fitted to the neighbours that agree with it.

    Attributes:
        matches: at least ``MIN_GUIDES``.
        frames: of the matches.
        maps: what multiplies the offsets that the frames predict.
        reach: how far from a guide its map is trusted, in pixels of image a and of image b.
        least_similarity: cosine of the descriptors that a match of theirs must have.
    """

    matches: Matches
    frames: MatchFrames
    maps: Float[np.ndarray, "match 2 2"]
    reach: Float[np.ndarray, "2 match"]
    least_similarity: float

    @classmethod
    def of(cls, matches: Matches, pair: _FeaturePair) -> Self | None:
        """Return those of the matches that may guide; None if they are too few.

        Raises:
            ValueError: as :func:`add_guided`.
        """
        frames = MatchFrames.of(matches, pair.a, pair.b)
        row, near = find_neighbours(frames, np.arange(len(frames)))
        agrees = frames.agree(row, near)
        maps, is_mapped = frames.fit_maps(row[agrees], near[agrees])
        is_guide = is_mapped & (_share(row, agrees, len(frames)) >= MIN_SHARE) & _is_moderate(maps)
        if is_guide.sum() < MIN_GUIDES:
            return None
        chosen = np.flatnonzero(is_guide)
        kept = matches[torch.from_numpy(chosen).to(matches.index.device)]
        similarity = pair.similarity(kept.index.cpu().numpy())
        reach = REACH * _farthest(frames, row[agrees], near[agrees])
        return cls(
            kept, MatchFrames.of(kept, pair.a, pair.b), maps[chosen], reach[:, chosen],
            float(np.quantile(similarity, LEAST_SIMILAR)),
        )  # fmt: skip

    def find_candidates(
        self, pair: _FeaturePair, free_a: Index, free_b: Index
    ) -> Int64[np.ndarray, "pair 2"]:
        """Return pairs of keypoints alike, one of which lies where a guide takes the other.

        The guide is the one nearest to the keypoint in its image.

        Args:
            pair: features of both images.
            free_a: keypoints of image a to look for.
            free_b: keypoints of image b to look for.
        """
        xy_a, xy_b = pair.positions(free_a, free_b)
        frames = self.frames
        linear = self.maps @ frames.linear_maps()
        forward = _LocalMaps(frames.xy_a, frames.xy_b, linear, frames.scale_b, self.reach[0])
        backward = _LocalMaps(
            frames.xy_b, frames.xy_a, np.linalg.inv(linear), frames.scale_b / frames.ratio,
            self.reach[1],
        )  # fmt: skip
        swapped = ((row, column) for column, row in backward.find(xy_b, xy_a))
        alike = [np.zeros((0, 2), dtype=np.int64)]
        for row, column in itertools.chain(forward.find(xy_a, xy_b), swapped):
            pairs = np.stack([free_a[row], free_b[column]], axis=1)
            alike.append(pairs[pair.similarity(pairs) >= self.least_similarity])
        return np.unique(np.concatenate(alike), axis=0)

    def support(
        self, candidates: Int64[np.ndarray, "pair 2"], pair: _FeaturePair
    ) -> Float[np.ndarray, " pair"]:
        """Return the share of the guides about each pair whose maps predict it.

        It is zero where they are too few, or too small a share, as for consensus.
        """
        num = len(self.frames)
        index = torch.cat([self.matches.index.cpu(), torch.from_numpy(candidates)])
        frames = MatchFrames.of(Matches(index, torch.zeros(len(index))), pair.a, pair.b)
        row, near = find_neighbours(frames, np.arange(num))
        row, near = row[row >= num], near[row >= num]
        agrees = frames.agree_with_maps(row, near, self.maps)
        share = _share(row - num, agrees, len(candidates))
        count = np.bincount(row[agrees] - num, minlength=len(candidates))
        return np.where((count >= MIN_SUPPORT) & (share >= MIN_SHARE), share, 0.0)


@dataclass(frozen=True, eq=False)
class _LocalMaps:
    """Affine maps of one image to another, about each guide.

    Attributes:
        source: positions of the guides in the image that the maps are from.
        target: positions in the other image.
        linear: their linear parts.
        scale: of the keypoints in the other image.
        reach: how far from the guides the maps are trusted, in pixels of the first image.
    """

    source: Float[np.ndarray, "2 guide"]
    target: Float[np.ndarray, "2 guide"]
    linear: Float[np.ndarray, "guide 2 2"]
    scale: Float[np.ndarray, " guide"]
    reach: Float[np.ndarray, " guide"]

    def find(
        self, xy: Points, others: Float32[np.ndarray, "2 other"]
    ) -> Iterator[tuple[Index, Index]]:
        """Return pairs of a point, and one of the other image that is where it is taken."""
        for start in range(0, xy.shape[1], BLOCK):
            predicted, radius = self._predict(xy[:, start : start + BLOCK])
            row, column = np.nonzero(_squared_distances(predicted, others) <= radius[:, None] ** 2)
            yield row + start, column

    def _predict(self, xy: Points) -> tuple[Points, Float32[np.ndarray, " point"]]:
        """Return where points are taken, and how far off they may be; out of reach it is nan."""
        squared = _squared_distances(xy, self.source.astype(np.float32))
        nearest = squared.argmin(axis=1)
        is_far = squared.min(axis=1) > self.reach[nearest] ** 2
        offset = np.einsum("pij,jp->ip", self.linear[nearest], xy - self.source[:, nearest])
        radius = BY_MAP.relative * np.hypot(*offset) + BY_MAP.scales * self.scale[nearest]
        radius[is_far] = np.nan
        return (self.target[:, nearest] + offset).astype(np.float32), radius.astype(np.float32)


def _is_moderate(maps: Float[np.ndarray, "match 2 2"]) -> NDArray[np.bool_]:
    """Say which maps neither mirror nor stretch or squeeze a direction much."""
    stretch = np.linalg.svd(maps, compute_uv=False)
    is_moderate: NDArray[np.bool_] = np.linalg.det(maps) > 0
    is_moderate &= (stretch[:, 0] <= MOST_STRETCH) & (stretch[:, 1] >= 1 / MOST_STRETCH)
    return is_moderate


def _farthest(frames: MatchFrames, row: Index, near: Index) -> Float[np.ndarray, "2 match"]:
    """Return how far the farthest of each row's neighbours is, in image a and in image b."""
    farthest = np.zeros((2, len(frames)))
    for side, xy in enumerate((frames.xy_a, frames.xy_b)):
        np.maximum.at(farthest[side], row, np.hypot(*(xy[:, near] - xy[:, row])))
    return farthest


def _squared_distances(
    one: Points, other: Float32[np.ndarray, "2 other"]
) -> Float32[np.ndarray, "point other"]:
    squared: NDArray[np.float32] = (one[0][:, None] - other[0]) ** 2
    squared += (one[1][:, None] - other[1]) ** 2
    return squared


def _share(row: Index, agrees: NDArray[np.bool_], num: int) -> NDArray[np.float64]:
    """Return the share of each row's pairs that agree; zero where there is no pair."""
    count = np.bincount(row[agrees], minlength=num)
    share: NDArray[np.float64] = count / np.maximum(np.bincount(row, minlength=num), 1)
    return share


def _is_best_of_both(
    candidates: Int64[np.ndarray, "pair 2"], similarity: Float[np.ndarray, " pair"]
) -> NDArray[np.bool_]:
    """Say which pairs are the most similar of either keypoint; of equal ones the first."""
    order = np.lexsort((candidates[:, 1], candidates[:, 0], -similarity))
    first_of_a, first_of_b = (
        np.unique(column[order], return_index=True)[1] for column in candidates.T
    )
    is_best = np.zeros(len(candidates), dtype=bool)
    is_best[order[np.intersect1d(first_of_a, first_of_b)]] = True
    return is_best
