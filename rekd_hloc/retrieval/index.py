"""Which images of many look most like one: words that two images share vote for their rotation.

Two images share a word where both have keypoints of it. The likeness of their residuals, sharpened
and weighted by how rare the word is, goes to the bin of the difference of the two angles. Keypoints
of one scene agree on the rotation between the images, others spread over all bins: so what the best
bins hold is the score.
"""

import itertools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rekd_hloc.retrieval.diffusion import BACKGROUND_RANK, NeighbourGraph
from rekd_hloc.retrieval.signatures import ANGLE_STEPS, Signature

NUM_BINS = 16
"""Of the rotation between two images; three neighbouring ones are taken together."""
MIN_LIKENESS = 0.15
"""Cosine of two residuals, as their bits estimate it, below which a word does not count."""
SHARPNESS = 4
"""Exponent of the likeness."""
MAX_ENTRIES = 200_000
"""Entries of the lists that a query looks at, those of its rarest words first: what images share of
common words says little. Up to some 2,000 images this is all of them, and beyond, the time of a
query stays the same."""


class RetrievalIndex:
    """Inverted lists of the words of many images; does not change once it is made.

    Args:
        signatures: of the images, of one codebook.
    """

    def __init__(self, signatures: Mapping[str, Signature]) -> None:
        self.names = list(signatures)
        parts = list(signatures.values())
        lengths = np.array([len(part) for part in parts], dtype=np.int64)
        self._norm = np.sqrt(np.maximum(lengths, 1))
        if not parts or not lengths.sum():
            self._lists = np.zeros(1, np.int64)
            return
        words = np.concatenate([part.words for part in parts])
        order = np.argsort(words, kind="stable")
        self._lists = np.searchsorted(words[order], np.arange(words.max() + 2))
        self._image = np.repeat(np.arange(len(parts), dtype=np.int32), lengths)[order]
        self._bits = _as_words64(np.concatenate([part.bits for part in parts])[order])
        self._angle = np.concatenate([part.angles for part in parts])[order]
        self._num_channels = parts[0].bits.shape[1] * 8
        frequency = np.maximum(np.diff(self._lists), 1)
        self._weight = np.log1p(len(parts) / frequency).astype(np.float32) ** 2

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_bytes(self) -> int:
        """Return what the lists take in memory."""
        if not hasattr(self, "_image"):
            return 0
        arrays = (self._lists, self._image, self._bits, self._angle, self._weight)
        return sum(array.nbytes for array in arrays)

    def scores(self, query: Signature) -> NDArray[np.float32]:
        """Return how much each image of the index looks like another, shape (image,)."""
        if not hasattr(self, "_image") or not len(query):
            return np.zeros(len(self), np.float32)
        used = self._rarest(query.words)
        words, bits = query.words[used], _as_words64(query.bits[used])
        begin, count = self._lists[words], self._lists[words + 1] - self._lists[words]
        row = np.repeat(np.arange(len(words)), count)
        skip = np.repeat(np.cumsum(count) - count - begin, count)
        entry = np.arange(len(row)) - skip
        differing = np.bitwise_count(self._bits[entry] ^ bits[row]).sum(axis=1, dtype=np.int32)
        likeness = 1.0 - 2.0 / self._num_channels * differing.astype(np.float32)
        chosen = np.flatnonzero(likeness > MIN_LIKENESS)
        row, entry = row[chosen], entry[chosen]
        vote = likeness[chosen] ** SHARPNESS * self._weight[words[row]]
        rotation = self._angle[entry] - query.angles[used][row]  # uint8 wraps, as turns do
        place = self._image[entry].astype(np.int64) * NUM_BINS
        place += rotation // np.uint8(ANGLE_STEPS // NUM_BINS)
        votes = np.bincount(place, vote, minlength=len(self) * NUM_BINS).reshape(-1, NUM_BINS)
        near = votes + np.roll(votes, 1, axis=1) + np.roll(votes, -1, axis=1)
        best = near.max(axis=1)
        return np.asarray(best / self._norm / np.sqrt(len(query)), dtype=np.float32)

    def _rarest(self, words: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the places of the words to look up: known ones, the rarest within the limit."""
        known = np.flatnonzero(words < len(self._lists) - 1)
        count = self._lists[words[known] + 1] - self._lists[words[known]]
        order = np.argsort(count, kind="stable")
        return np.sort(known[order[np.cumsum(count[order]) <= MAX_ENTRIES]])


def nearest_images(
    signatures: Mapping[str, Signature],
    count: int,
    *,
    min_gap: int = 0,
) -> dict[str, list[str]]:
    """Return for each image those that look most like it, the best first.

    They are found by the index, and again by a walk from image to image. Images that neither links
    with it are not among them, so there may be fewer than ``count``.

    Args:
        signatures: of all images, in their order.
        count: the most images for each.
        min_gap: images so many places away in the order, or fewer, do not count; for loops of a
            sequence, whose neighbours are paired in any case.

    Raises:
        ValueError: ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"retrieval needs at least 1 image for each, got {count}")
    index = RetrievalIndex(signatures)
    alike, scores = _most_alike(index, signatures, max(count, BACKGROUND_RANK + 1), min_gap)
    graph = NeighbourGraph(alike, scores)
    found = {}
    for number, name in enumerate(index.names):
        reached, visits = graph.walk_from(number)
        is_far = np.abs(reached - number) > min_gap
        near = reached[is_far][np.argsort(-visits[is_far], kind="stable")]
        direct = alike[number][scores[number] > 0]
        best = dict.fromkeys([*near.tolist(), *direct.tolist()])
        found[name] = [index.names[other] for other in itertools.islice(best, count)]
    return found


def _most_alike(
    index: RetrievalIndex, signatures: Mapping[str, Signature], count: int, min_gap: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the most alike images of each, and how much they are, both of shape (image, count).

    Where there are fewer, others follow with a score of 0.
    """
    count = min(count, len(index))
    alike = np.zeros((len(index), count), np.int64)
    best = np.zeros((len(index), count), np.float32)
    for number, name in enumerate(index.names):
        scores = index.scores(signatures[name])
        scores[max(0, number - min_gap) : number + min_gap + 1] = 0
        alike[number] = np.argsort(-scores, kind="stable")[:count]
        best[number] = scores[alike[number]]
    return alike, best


def _as_words64(bits: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return rows of bytes as rows of 64-bit numbers, padded with zeros."""
    padding = -bits.shape[1] % 8
    return np.ascontiguousarray(np.pad(bits, ((0, 0), (0, padding)))).view(np.uint64)
