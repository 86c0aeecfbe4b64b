"""Aligning the keypoints of each track to its root, image by image, with few images in memory.

A keypoint gets one position, by one alignment: that of its patch to the patch of its track's root,
which stays where it is. What cannot be aligned keeps its position.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray

from rekd_hloc.refinement.align_patches import align_patches
from rekd_hloc.refinement.local_affine import local_affine
from rekd_hloc.refinement.pyramid import ImagePyramid
from rekd_hloc.refinement.tracks import Ints, Tracks
from rekd_hloc.types import Keypoints

PYRAMID_BYTES = 1 << 30
"""Of the pyramids that are kept for other images: 20 of 1600x1200 px."""


class State(IntEnum):
    """What became of a keypoint."""

    NO_TRACK = 0
    ROOT = 1
    REFINED = 2
    REFUSED = 3


@dataclass(frozen=True, eq=False)
class RefinedKeypoints:
    """Hold the keypoints of an image after refinement, all of them in their order.

    Attributes:
        xy: positions in pixels, shape (keypoint, 2).
        covariance: of the positions, in square pixels; not a number where not refined.
        state: a :class:`State` for each keypoint.
    """

    xy: NDArray[np.float32]
    covariance: NDArray[np.float32]
    state: NDArray[np.uint8]

    @classmethod
    def unrefined(cls, xy: NDArray[np.float32]) -> "RefinedKeypoints":
        """Return keypoints that keep their positions."""
        unknown = np.full((len(xy), 2, 2), np.nan, np.float32)
        return cls(xy.copy(), unknown, np.zeros(len(xy), np.uint8))


class PyramidCache:
    """The pyramids of the images that were used last, up to a number of bytes.

    An image that cannot be read is None, and is not tried again.
    """

    def __init__(
        self, load: Callable[[int], ImagePyramid | None], max_bytes: int = PYRAMID_BYTES
    ) -> None:
        """Take a function from the number of an image to its pyramid."""
        self._load = load
        self._max_bytes = max_bytes
        self._pyramids: OrderedDict[int, ImagePyramid | None] = OrderedDict()
        self._num_bytes = 0

    def __contains__(self, image: object) -> bool:
        return image in self._pyramids

    def __getitem__(self, image: int) -> ImagePyramid | None:
        if image not in self._pyramids:
            self._pyramids[image] = pyramid = self._load(image)
            self._num_bytes += _num_bytes(pyramid)
            for other in [n for n, kept in self._pyramids.items() if kept is not None]:
                if self._num_bytes <= self._max_bytes or other == image:
                    break
                self._num_bytes -= _num_bytes(self._pyramids.pop(other))
        self._pyramids.move_to_end(image)
        return self._pyramids[image]


class TrackAligner:
    """Refines one image after the other, each by the roots of the tracks that it takes part in."""

    def __init__(
        self, tracks: Tracks, keypoints: Callable[[int], Keypoints], pyramids: PyramidCache
    ) -> None:
        """Prepare.

        Args:
            tracks: of all images.
            keypoints: gives those of an image, with true scales and angles, on the device of the
                pyramids.
            pyramids: of the images.
        """
        self._tracks = tracks
        self._keypoints = keypoints
        self._pyramids = pyramids
        self._root_image, self._root_keypoint = tracks.roots()
        order = np.argsort(tracks.image, kind="stable")
        images, starts = np.unique(tracks.image[order], return_index=True)
        rows = np.split(order, starts)[1:]
        self._rows: dict[int, Ints] = dict(zip(images.tolist(), rows, strict=True))

    def in_order(self, images: Sequence[int]) -> Iterator[int]:
        """Give images one by one, each time the one that needs fewest images read.

        Args:
            images: that are to be refined while this goes on.
        """
        num_images = 1 + max((*images, *self._rows), default=0)
        needs = np.zeros((len(images), num_images), np.bool_)
        for number, image in enumerate(images):
            rows = self._rows_of(image)
            needs[number, self._root_image[rows]] = True
            needs[number, image] = len(rows) > 0
        left = np.ones(len(images), np.bool_)
        for _ in images:
            is_cached = np.array([image in self._pyramids for image in range(num_images)])
            num_read = np.where(left, (needs & ~is_cached).sum(axis=1), num_images + 1)
            number = int(num_read.argmin())
            left[number] = False
            yield images[number]

    def refine(self, image: int) -> RefinedKeypoints:
        """Return the keypoints of an image with the positions that their tracks give them."""
        keypoints = self._keypoints(image)
        refined = RefinedKeypoints.unrefined(keypoints.xy.cpu().numpy())
        rows = self._rows_of(image)
        is_root = self._tracks.is_root[rows]
        refined.state[self._tracks.keypoint[rows]] = np.where(is_root, State.ROOT, State.REFUSED)
        pyramid = self._pyramids[image] if len(rows[~is_root]) else None
        if pyramid is None:
            return refined
        roots = np.unique(self._root_image[rows[~is_root]]).tolist()
        for root in sorted(roots, key=lambda root: root not in self._pyramids):
            root_pyramid = self._pyramids[root]
            if root_pyramid is not None:
                self._align(root, image, root_pyramid, pyramid, refined)
        return refined

    def _align(
        self,
        root: int,
        image: int,
        root_pyramid: ImagePyramid,
        pyramid: ImagePyramid,
        refined: RefinedKeypoints,
    ) -> None:
        """Enter what the alignment of an image's keypoints to their roots in another one gives.

        Matches of the two images whose track has its root elsewhere tell of the affine maps too.
        """
        root_rows, rows = self._rows_of(root), self._rows_of(image)
        track = self._tracks.track
        _, there, here = np.intersect1d(
            track[root_rows], track[rows], assume_unique=True, return_indices=True
        )
        there, here = root_rows[there], rows[here]
        index = torch.from_numpy(self._tracks.keypoint[here])
        roots = self._keypoints(root)[torch.from_numpy(self._tracks.keypoint[there])]
        observed = self._keypoints(image)[index]
        wanted = torch.from_numpy(self._tracks.is_root[there]).to(roots.xy.device)
        start = local_affine(roots, observed)[wanted]
        found = align_patches(root_pyramid, pyramid, roots[wanted], observed[wanted], start)
        good = found.is_refined.cpu().numpy()
        moved = index.numpy()[self._tracks.is_root[there]][good]
        refined.xy[moved] = (observed.xy[wanted] + found.shift).cpu().numpy()[good]
        refined.covariance[moved] = found.covariance.cpu().numpy()[good]
        refined.state[moved] = State.REFINED

    def _rows_of(self, image: int) -> Ints:
        """Return an image's observations, in the order of their tracks."""
        return self._rows.get(image, np.zeros(0, np.int64))


def _num_bytes(pyramid: ImagePyramid | None) -> int:
    return 0 if pyramid is None else pyramid.num_bytes
