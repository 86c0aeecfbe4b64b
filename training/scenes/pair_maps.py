"""Where keypoints of one photo lie in another, by matches between both or by aligning them.

Two photos without a reconstruction are joined by one homography where the scene is flat or the
camera stood still. Otherwise the matches on their epipolar lines give local maps.
"""

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from rekd_hloc.types import Keypoints
from training.tracks import warp_keypoints

MIN_MATCHES = 16
"""Fewest verified matches of a pair."""
MIN_VERIFIED = 0.25
"""Smallest share of a pair's matches that are (COLMAP's)."""
MAX_ERROR_PX = 2.0
"""Largest error of a verified match: from its epipolar line, and from where its neighbours put
it."""
MAX_DISTANCE = 0.06
"""Largest distance of a keypoint to the verified matches used for it, as a share of the longer
side."""
NUM_NEIGHBOURS = 8
"""Verified matches that a local map is fitted to."""
MIN_NEIGHBOURS = 5
"""Fewest of them that agree with it."""
PLANAR_SHARE = 0.9
"""Share of the matches on their epipolar lines that one homography explains, for it to be taken."""
PASSES = 3
"""Fits of a local map, each without the matches that are off the one before."""
MIN_ALIGNED = 0.2
"""Smallest correlation of the contrast of two photos of one view."""
MAX_SHIFT = 0.05
"""Largest shift of a corner between them, as a share of the longer side."""
ALIGNED_SIDE_PX = 640
"""Longer side of the copies that are aligned."""
CONTRAST_PX = 8.0
"""Sigma of the surroundings that contrast is measured against."""

Points = Float64[np.ndarray, "point 2"]
Seen = Bool[np.ndarray, " keypoint"]
Grey = Float32[np.ndarray, "height width"]


class PairMap(Protocol):
    """Says where keypoints of one photo lie in another."""

    def carry(self, keypoints: Keypoints) -> tuple[Keypoints, Seen]:
        """Return keypoints as they lie in the other photo, and which of them can be carried."""
        ...

    def roll(self) -> float:
        """Return by how much the other photo is rotated, radians clockwise."""
        ...


@dataclass(frozen=True, eq=False)
class HomographyMap:
    """One homography for all keypoints, or for those near the matches that it was fitted to.

    Args:
        b_from_a: the map.
        near: positions in the first photo; empty for keypoints anywhere.
        reach_px: largest distance to one of them.
    """

    b_from_a: Float64[np.ndarray, "3 3"]
    near: Points
    reach_px: float

    def carry(self, keypoints: Keypoints) -> tuple[Keypoints, Seen]:
        """Return keypoints as they lie in the other photo, and which of them can be carried."""
        carried = warp_keypoints(keypoints, torch.from_numpy(self.b_from_a))
        is_seen = np.isfinite(carried.xy.numpy()).all(axis=1)
        if len(self.near) and len(keypoints):
            distance, _ = cKDTree(self.near).query(keypoints.xy.double().numpy())
            is_seen &= distance <= self.reach_px
        return carried, is_seen

    def roll(self) -> float:
        """Return by how much the other photo is rotated, radians clockwise."""
        linear = self.b_from_a[:2, :2]
        return float(np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1]))


@dataclass(frozen=True, eq=False)
class LocalMaps:
    """For each keypoint the affine map of the verified matches about it, where they agree.

    Args:
        xy_a, xy_b: positions of the matches.
        reach_px: largest distance of a keypoint to those that are used, in the first photo.
    """

    xy_a: Points
    xy_b: Points
    reach_px: float

    def carry(self, keypoints: Keypoints) -> tuple[Keypoints, Seen]:
        """Return keypoints as they lie in the other photo, and which of them can be carried."""
        xy = keypoints.xy.double().numpy()
        count = min(NUM_NEIGHBOURS, len(self.xy_a))
        if len(xy) == 0 or count < MIN_NEIGHBOURS:
            return keypoints, np.zeros(len(xy), dtype=bool)
        distance, near = cKDTree(self.xy_a).query(xy, k=count)
        exists = distance <= self.reach_px
        offset = (self.xy_a[near] - xy[:, None]) / self.reach_px
        used = exists
        for _ in range(PASSES):
            fitted = _fit_affine_maps(offset, self.xy_b[near], used)
            expected = np.concatenate([offset, np.ones((*near.shape, 1))], axis=2) @ fitted
            used = exists & (np.linalg.norm(expected - self.xy_b[near], axis=2) <= MAX_ERROR_PX)
        linear = fitted[:, :2].transpose(0, 2, 1) / self.reach_px
        area = linear[:, 0, 0] * linear[:, 1, 1] - linear[:, 0, 1] * linear[:, 1, 0]
        enough = used.sum(axis=1) >= np.maximum(MIN_NEIGHBOURS, 0.7 * exists.sum(axis=1))
        is_seen = enough & (area > 1e-3)
        angle = keypoints.angle.double().numpy()
        along = (linear @ np.column_stack([np.cos(angle), np.sin(angle)])[:, :, None])[:, :, 0]
        scale = keypoints.scale.double().numpy() * np.sqrt(np.where(is_seen, area, 1))
        turned = np.arctan2(along[:, 1], along[:, 0]) % (2 * np.pi)
        carried = Keypoints(
            xy=torch.from_numpy(fitted[:, 2]).float(),
            scale=torch.from_numpy(scale).float(),
            angle=torch.from_numpy(turned).float(),
            score=keypoints.score,
        )
        return carried, is_seen

    def roll(self) -> float:
        """Return by how much the other photo is rotated, radians clockwise."""
        similarity, _ = cv2.estimateAffinePartial2D(self.xy_a, self.xy_b, method=cv2.LMEDS)
        return 0.0 if similarity is None else float(np.arctan2(similarity[1, 0], similarity[0, 0]))


def verify_matches(
    xy_a: Points, xy_b: Points, longer_a: int, longer_b: int
) -> tuple[PairMap, PairMap] | None:
    """Return the maps from a to b and back that matches give; None if no geometry explains them.

    Args:
        xy_a, xy_b: positions of the matches.
        longer_a, longer_b: longer side of each photo, in pixels.
    """
    if len(xy_a) < MIN_MATCHES:
        return None
    method = cv2.USAC_MAGSAC
    _, mask = cv2.findFundamentalMat(xy_a, xy_b, method, MAX_ERROR_PX, 0.9999, 5000)
    on_line = np.zeros(len(xy_a), bool) if mask is None else mask[:, 0] > 0
    b_from_a, mask = cv2.findHomography(xy_a, xy_b, method, MAX_ERROR_PX, None, 5000, 0.9999)
    on_plane = np.zeros(len(xy_a), bool) if b_from_a is None else mask[:, 0] > 0
    reach_a, reach_b = MAX_DISTANCE * longer_a, MAX_DISTANCE * longer_b
    enough = max(MIN_MATCHES, MIN_VERIFIED * len(xy_a))
    if on_plane.sum() >= max(enough, PLANAR_SHARE * on_line.sum()):
        a_from_b = np.linalg.inv(b_from_a)
        forth = HomographyMap(np.asarray(b_from_a, np.float64), xy_a[on_plane], reach_a)
        return forth, HomographyMap(a_from_b, xy_b[on_plane], reach_b)
    if on_line.sum() < enough:
        return None
    a, b = xy_a[on_line], xy_b[on_line]
    return LocalMaps(a, b, reach_a), LocalMaps(b, a, reach_b)


def align_photos(grey_a: Grey, grey_b: Grey) -> Float64[np.ndarray, "3 3"] | None:
    """Align two photos of one view, of any light: the affine map of best correlated contrast.

    Returns:
        The map to b from a; None if their contrast is not alike or a corner moves far.
    """
    size_a, size_b = (np.array(grey.shape[::-1], np.float64) for grey in (grey_a, grey_b))
    small_a, small_b = _contrast(grey_a), _contrast(grey_b)
    stretch_a, stretch_b = (
        _pixels(size / np.array(small.shape[::-1]))
        for size, small in ((size_a, small_a), (size_b, small_b))
    )
    start = np.linalg.inv(stretch_b) @ _pixels(size_b / size_a) @ stretch_a
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-5)
    try:
        correlation, affine = cv2.findTransformECC(
            small_a,
            small_b,
            start[:2].astype(np.float32),
            cv2.MOTION_AFFINE,
            stop,
            np.ones_like(small_b, np.uint8),
            5,
        )
    except cv2.error:  # it does not converge
        return None
    b_from_a = stretch_b @ np.vstack([affine, [0, 0, 1]]) @ np.linalg.inv(stretch_a)
    width, height = size_a
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]])
    moved = corners @ (b_from_a - _pixels(size_b / size_a)).T
    shift = np.linalg.norm(moved[:, :2], axis=1).max()
    if correlation < MIN_ALIGNED or shift > MAX_SHIFT * size_b.max():
        return None
    return np.asarray(b_from_a, dtype=np.float64)


def _contrast(grey: Grey) -> Grey:
    """A small copy, less its surroundings and by their contrast, which light hardly changes."""
    factor = min(ALIGNED_SIDE_PX / max(grey.shape), 1.0)
    small = cv2.resize(np.sqrt(grey), None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    detail = small - cv2.GaussianBlur(small, (0, 0), CONTRAST_PX)
    spread = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), CONTRAST_PX))
    return np.asarray(detail / (spread + 0.01), dtype=np.float32)


def _pixels(stretch: NDArray[np.float64]) -> Float64[np.ndarray, "3 3"]:
    """Stretch an image: pixel centres are integers."""
    matrix = np.diag([*stretch, 1.0])
    matrix[:2, 2] = (stretch - 1) / 2
    return matrix


def _fit_affine_maps(
    offset: Float64[np.ndarray, "keypoint neighbour 2"],
    target: Float64[np.ndarray, "keypoint neighbour 2"],
    used: Bool[np.ndarray, "keypoint neighbour"],
) -> Float64[np.ndarray, "keypoint 3 2"]:
    """Least squares for each keypoint: ``target = [offset, 1] @ map``."""
    design = np.concatenate([offset, np.ones((*offset.shape[:2], 1))], axis=2)
    weighted = design * used[:, :, None]
    middle = (target * used[:, :, None]).sum(axis=1) / np.maximum(used.sum(axis=1), 1)[:, None]
    normal = weighted.transpose(0, 2, 1) @ design + np.diag([1e-6, 1e-6, 1e-9])
    right = weighted.transpose(0, 2, 1) @ (target - middle[:, None])
    fitted = np.linalg.solve(normal, right)
    fitted[:, 2] += middle
    return fitted
