"""Neighbours of neighbours: a walk along the links between images that look alike.

Two views of one place may share no word, and yet both look like a third one between them. Each
image is linked with the few that look most like it, and a walk starts from an image along these
links, again and again (Donoser and Bischof, CVPR 2013). How often it comes by an image is how near
that is. Links of images that have many count for less, so that nobody is everybody's neighbour.
"""

import numpy as np
from numpy.typing import NDArray

NUM_LINKS = 20
"""Images that each is linked with; so is each with those that are linked with it."""
BACKGROUND_RANK = 100
"""The score of an image's so manieth neighbour is what chance gives it, and counts as none; with
fewer images nothing does."""
NUM_STEPS = 10
"""Of the walk."""
CONTINUE = 0.9
"""Share of the walk that goes on after each step."""
MAX_REACHED = 200
"""Images from which a walk goes on; those that it reached least are left out, so that the time of
one walk does not depend on how many images there are."""


class NeighbourGraph:
    """Links between images, in both directions.

    Args:
        alike: the images that look most like each, the best first, shape (image, neighbour).
        scores: how much they do, 0 for not at all, shape (image, neighbour).
    """

    def __init__(self, alike: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
        linked, excess = _links(alike, scores)
        count, width = linked.shape
        begin, end = np.repeat(np.arange(count), width), linked.ravel()
        weight = excess.ravel()
        is_link = weight > 0
        begin, end, weight = begin[is_link], end[is_link], weight[is_link]
        key = np.concatenate([begin * count + end, end * count + begin])
        order = np.lexsort((-np.tile(weight, 2), key))
        place, first = np.unique(key[order], return_index=True)  # the stronger of two directions
        weight = np.tile(weight, 2)[order][first]
        row, self._end = place // max(count, 1), place % max(count, 1)
        total = np.bincount(row, weight, minlength=count)
        self._weight = weight / np.sqrt(total[row] * total[self._end])
        self._rows = np.searchsorted(row, np.arange(count + 1))

    def walk_from(self, image: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the images that a walk from one comes by, itself too, and how often it does."""
        images, mass = np.array([image]), np.ones(1)
        reached = images
        visits: NDArray[np.float64] = np.zeros(1)
        for _ in range(NUM_STEPS):
            if len(images) > MAX_REACHED:
                most = np.argsort(-mass, kind="stable")[:MAX_REACHED]
                images, mass = images[most], mass[most]
            images, mass = self._step(images, CONTINUE * mass)
            reached, place = np.unique(np.concatenate([reached, images]), return_inverse=True)
            visits = np.bincount(place, np.concatenate([visits, mass])).astype(np.float64)
        return reached, visits

    def _step(
        self, images: NDArray[np.int64], mass: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        first, count = self._rows[images], self._rows[images + 1] - self._rows[images]
        link = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - first, count)
        passed = np.repeat(mass, count) * self._weight[link]
        ends, place = np.unique(self._end[link], return_inverse=True)
        return ends, np.bincount(place, passed, minlength=len(ends)).astype(np.float64)


def _links(
    alike: NDArray[np.int64], scores: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the links of each image, and how much its score is above the chance of both ends."""
    linked, score = alike[:, :NUM_LINKS], scores[:, :NUM_LINKS].astype(np.float64)
    if alike.shape[1] <= BACKGROUND_RANK:
        return linked, score
    chance = scores[:, BACKGROUND_RANK]
    return linked, np.maximum(score - np.maximum(chance[:, None], chance[linked]), 0)
