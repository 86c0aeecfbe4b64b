"""Tracks: which keypoints of different images are one point of the scene, as their matches say.

A track is a connected component of matches. Where one would hold two keypoints of an image, it is
split: its matches are joined from the best score down, and a join that would bring two keypoints of
one image together is refused. So a track is a part of a maximum spanning forest.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ImageMatches:
    """Hold matches between the keypoints of many images; row m is one match.

    Attributes:
        image_a: number of the first image, from 0.
        keypoint_a: index of its keypoint.
        image_b: number of the second image, another one.
        keypoint_b: index of its keypoint.
        score: not negative, larger is better.
    """

    image_a: Ints
    keypoint_a: Ints
    image_b: Ints
    keypoint_b: Ints
    score: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.score)

    @classmethod
    def concatenate(cls, parts: "list[ImageMatches]") -> "ImageMatches":
        """Join several sets in the order given; no part gives an empty set."""
        none = np.zeros(0, np.int64)
        every = [cls(none, none, none, none, np.zeros(0)), *parts]
        names = ("image_a", "keypoint_a", "image_b", "keypoint_b", "score")
        return cls(*(np.concatenate([getattr(part, name) for part in every]) for name in names))


@dataclass(frozen=True, eq=False)
class Tracks:
    """Hold the observations of all tracks, sorted by track.

    Attributes:
        track: number of each observation's track, from 0 without gaps.
        image: number of its image; no image occurs twice in a track.
        keypoint: index of its keypoint; no keypoint is in two tracks.
        is_root: one observation of each track, the one with the largest sum of scores.
        num_refused: matches whose two keypoints are in different tracks.
    """

    track: Ints
    image: Ints
    keypoint: Ints
    is_root: NDArray[np.bool_]
    num_refused: int = 0

    def __len__(self) -> int:
        """Return how many tracks there are."""
        return int(self.is_root.sum())

    def roots(self) -> tuple[Ints, Ints]:
        """Return image and keypoint of the root of each observation's track."""
        image, keypoint = self.image[self.is_root], self.keypoint[self.is_root]
        return image[self.track], keypoint[self.track]


def build_tracks(matches: ImageMatches) -> Tracks:
    """Join matches to tracks.

    The result does not depend on the order of the matches, nor on which image of a match comes
    first. Of equal scores, the match of the smaller images and keypoints is joined first.

    Args:
        matches: that are verified; a repeated one counts once, with its best score.
    """
    images, keypoints, a, b, score = _as_graph(matches)
    label = _components(len(images), a, b)
    is_split = _repeats_image(label, images)[label[a]]
    label = _split(label, images, a[is_split], b[is_split])
    is_inside = label[a] == label[b]
    support = np.zeros(len(images))
    for side in (a, b):
        np.add.at(support, side[is_inside], score[is_inside])
    is_used = np.bincount(label, minlength=len(label))[label] > 1
    order = np.lexsort((-support, label))  # the root first; nodes are sorted by image
    order = order[is_used[order]]
    is_root = np.ones(len(order), np.bool_)
    is_root[1:] = label[order][1:] != label[order][:-1]
    return Tracks(
        np.cumsum(is_root) - 1, images[order], keypoints[order], is_root, int((~is_inside).sum())
    )


def _as_graph(matches: ImageMatches) -> tuple[Ints, Ints, Ints, Ints, NDArray[np.float64]]:
    """Return image and keypoint of each node, and nodes and score of each edge, from best down."""
    count = int(max(matches.keypoint_a.max(initial=0), matches.keypoint_b.max(initial=0))) + 1
    key_a = matches.image_a * count + matches.keypoint_a
    key_b = matches.image_b * count + matches.keypoint_b
    keys, nodes = np.unique(np.concatenate([key_a, key_b]), return_inverse=True)
    first, second = nodes[: len(matches)], nodes[len(matches) :]
    a, b = np.minimum(first, second), np.maximum(first, second)
    order = np.lexsort((b, a, -matches.score))
    edge = (a * max(len(keys), 1) + b)[order]
    kept = order[np.sort(np.unique(edge, return_index=True)[1])]
    return keys // count, keys % count, a[kept], b[kept], matches.score[kept]


def _components(num_nodes: int, a: Ints, b: Ints) -> Ints:
    """Return the smallest node of each node's connected component."""
    label = np.arange(num_nodes)
    while True:
        before = label.copy()
        least = np.minimum(label[a], label[b])
        for side in (a, b):
            np.minimum.at(label, label[side], least)
            np.minimum.at(label, side, least)
        label = label[label]
        if np.array_equal(label, before):
            return label


def _repeats_image(label: Ints, images: Ints) -> NDArray[np.bool_]:
    """Say of each label whether an image occurs twice in its component."""
    repeats = np.zeros(len(label), np.bool_)
    order = np.lexsort((images, label))
    one, other = order[:-1], order[1:]
    is_same = (label[one] == label[other]) & (images[one] == images[other])
    repeats[label[one][is_same]] = True
    return repeats


def _split(label: Ints, images: Ints, a: Ints, b: Ints) -> Ints:
    """Return labels after the components of these edges were joined anew, without conflicts.

    Args:
        label: of each node, its component.
        images: of each node.
        a: first nodes of the edges, from the best score down.
        b: second nodes.
    """
    is_node = np.zeros(len(label), np.bool_)
    is_node[a] = is_node[b] = True
    nodes = np.flatnonzero(is_node)
    parent = dict(zip(nodes.tolist(), nodes.tolist(), strict=True))
    held = {node: {image} for node, image in zip(parent, images[nodes].tolist(), strict=True)}

    def top(node: int) -> int:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for one, other in zip(a.tolist(), b.tolist(), strict=True):
        root, leaf = top(one), top(other)
        if root == leaf or not held[root].isdisjoint(held[leaf]):
            continue
        if len(held[root]) < len(held[leaf]):
            root, leaf = leaf, root
        parent[leaf] = root
        held[root] |= held.pop(leaf)
    split = label.copy()
    split[nodes] = [top(node) for node in nodes.tolist()]
    return split
