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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from numpy.typing import NDArray

from rekd_hloc.matching.consensus import MIN_SHARE, MIN_SUPPORT, find_neighbours
from rekd_hloc.matching.match_frames import BY_MAP, Index, MatchFrames
from rekd_hloc.types import Features, Matches

MIN_GUIDES = 8
"""Matches with a map without which nothing is added."""
LEAST_SIMILAR = 0.02
"""Share of an image pair's guides that may be less similar than a match that is added. Of 0.02,
0.05 and 0.1 on tourists' photos, 27, 23 and 20 % more matches are right (docs/experiments.md)."""
BLOCK = 256
"""Keypoints whose places are compared at once; changes memory and speed only."""

Points = Float32[np.ndarray, "2 point"]


@torch.no_grad()
def add_guided(matches: Matches, a: Features, b: Features) -> Matches:
    """Return the matches, and those that they lead to.

    Args:
        matches: of images a and b, most of them right: mutual nearest neighbours after a filter.
        a: all features of image a, with true scales and angles.
        b: likewise of image b.

    Returns:
        All matches that were given, with their scores, and others of keypoints that had none; in
        ascending order of the keypoint of image a. The score of an added match is the share of its
        neighbours that support it, in (0, 1].

    Raises:
        ValueError: a match names a keypoint that is not there, a scale is not positive, or a value
            is not finite.
    """
    guides = Guides.of(matches, a, b)
    if guides is None:
        return matches
    free_a, free_b = (
        np.setdiff1d(np.arange(len(features)), column)
        for features, column in zip((a, b), matches.index.cpu().numpy().T, strict=True)
    )
    candidates = guides.find_candidates(a, b, free_a, free_b)
    similarity = _similarity(candidates, a, b)
    is_similar = similarity >= guides.least_similarity
    candidates, similarity = candidates[is_similar], similarity[is_similar]
    share = guides.support(candidates, a, b)
    is_supported = share > 0
    candidates, share = candidates[is_supported], share[is_supported]
    is_best = _is_best_of_both(candidates, similarity[is_supported])
    return _merge(matches, candidates[is_best], share[is_best])


@dataclass(frozen=True, eq=False)
class Guides:
    """Matches with an affine map each, which is fitted to the neighbours that agree with it.

    Attributes:
        matches: at least ``MIN_GUIDES``.
        frames: of the matches.
        maps: what multiplies the offsets that the frames predict.
        least_similarity: cosine of the descriptors that a match of theirs must have.
    """

    matches: Matches
    frames: MatchFrames
    maps: Float[np.ndarray, "match 2 2"]
    least_similarity: float

    @classmethod
    def of(cls, matches: Matches, a: Features, b: Features) -> Self | None:
        """Return those of the matches that may guide; None if they are too few.

        Raises:
            ValueError: as :func:`add_guided`.
        """
        frames = MatchFrames.of(matches, a.keypoints, b.keypoints)
        every = np.arange(len(frames))
        row, near = find_neighbours(frames, every)
        agrees = frames.agree(row, near)
        maps, is_mapped = frames.fit_maps(row[agrees], near[agrees])
        is_guide = is_mapped & (_share(row, agrees, len(frames)) >= MIN_SHARE)
        if is_guide.sum() < MIN_GUIDES:
            return None
        chosen = torch.from_numpy(np.flatnonzero(is_guide)).to(matches.index.device)
        kept = Matches(matches.index[chosen], matches.score[chosen])
        similarity = _similarity(kept.index.cpu().numpy(), a, b)
        return cls(
            kept, MatchFrames.of(kept, a.keypoints, b.keypoints), maps[is_guide],
            float(np.quantile(similarity, LEAST_SIMILAR)),
        )  # fmt: skip

    def find_candidates(
        self, a: Features, b: Features, free_a: Index, free_b: Index
    ) -> Int64[np.ndarray, "pair 2"]:
        """Return pairs of keypoints, one of which lies where a guide takes the other.

        The guide is the one nearest to the keypoint in its image.

        Args:
            a: features of image a.
            b: features of image b.
            free_a: keypoints of image a to look for.
            free_b: keypoints of image b to look for.
        """
        xy_a, xy_b = (
            np.ascontiguousarray(features.keypoints.xy.cpu().numpy()[free].T, dtype=np.float32)
            for features, free in ((a, free_a), (b, free_b))
        )
        frames = self.frames
        linear = self.maps @ frames.linear_maps()
        forward = _LocalMaps(frames.xy_a, frames.xy_b, linear, frames.scale_b)
        backward = _LocalMaps(
            frames.xy_b, frames.xy_a, np.linalg.inv(linear), frames.scale_b / frames.ratio
        )
        pairs = [np.zeros((2, 0), dtype=np.int64)]
        pairs += [np.stack([row, column]) for row, column in forward.find(xy_a, xy_b)]
        pairs += [np.stack([row, column]) for column, row in backward.find(xy_b, xy_a)]
        row, column = np.unique(np.concatenate(pairs, axis=1), axis=1)
        return np.stack([free_a[row], free_b[column]], axis=1)

    def support(
        self, candidates: Int64[np.ndarray, "pair 2"], a: Features, b: Features
    ) -> Float[np.ndarray, " pair"]:
        """Return the share of the guides about each pair whose maps predict it.

        It is zero where they are too few, or too small a share, as for consensus.
        """
        num = len(self.frames)
        index = torch.cat([self.matches.index.cpu(), torch.from_numpy(candidates)])
        every = Matches(index, torch.zeros(len(index)))
        frames = MatchFrames.of(every, a.keypoints, b.keypoints)
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
    """

    source: Float[np.ndarray, "2 guide"]
    target: Float[np.ndarray, "2 guide"]
    linear: Float[np.ndarray, "guide 2 2"]
    scale: Float[np.ndarray, " guide"]

    def find(
        self, xy: Points, others: Float32[np.ndarray, "2 other"]
    ) -> Iterator[tuple[Index, Index]]:
        """Return pairs of a point, and one of the other image that is where it is taken."""
        for start in range(0, xy.shape[1], BLOCK):
            predicted, radius = self._predict(xy[:, start : start + BLOCK])
            row, column = np.nonzero(_squared_distances(predicted, others) <= radius[:, None] ** 2)
            yield row + start, column

    def _predict(self, xy: Points) -> tuple[Points, Float32[np.ndarray, " point"]]:
        """Return where points are taken, and how far off they may be."""
        nearest = _squared_distances(xy, self.source.astype(np.float32)).argmin(axis=1)
        offset = np.einsum("pij,jp->ip", self.linear[nearest], xy - self.source[:, nearest])
        radius = BY_MAP.relative * np.hypot(*offset) + BY_MAP.scales * self.scale[nearest]
        return (self.target[:, nearest] + offset).astype(np.float32), radius.astype(np.float32)


def _squared_distances(
    one: Points, other: Float32[np.ndarray, "2 other"]
) -> Float32[np.ndarray, "point other"]:
    squared: NDArray[np.float32] = (one[0][:, None] - other[0]) ** 2
    squared += (one[1][:, None] - other[1]) ** 2
    return squared


def _similarity(
    index: Int64[np.ndarray, "pair 2"], a: Features, b: Features
) -> Float[np.ndarray, " pair"]:
    """Return the cosines of the descriptors of pairs of keypoints."""
    of_a, of_b = (
        features.descriptors[torch.from_numpy(column).to(features.descriptors.device)].float()
        for features, column in zip((a, b), index.T, strict=True)
    )
    cosine: NDArray[np.float32] = (of_a * of_b).sum(dim=1).cpu().numpy()
    return cosine


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


def _merge(
    matches: Matches, added: Int64[np.ndarray, "pair 2"], share: Float[np.ndarray, " pair"]
) -> Matches:
    """Return given and added matches, sorted by the keypoint of image a."""
    index, score = torch.from_numpy(added), torch.from_numpy(share)
    index = torch.cat([matches.index, index.to(matches.index.device)])
    score = torch.cat([matches.score, score.to(matches.score)])
    order = torch.argsort(index[:, 0], stable=True)
    return Matches(index[order], score[order], is_fallback=matches.is_fallback)
