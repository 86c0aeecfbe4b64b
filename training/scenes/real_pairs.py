"""What is right between two photos of a reconstruction, for keypoints that it was not made of.

Keypoints of one photo are carried to the other through planes (:mod:`training.scenes.transfer`).
Where that works, a match can be judged by its place. Where it does not, the poses still give the
epipolar line, which judges every match, though a wrong one lies on it by chance now and then.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from scipy.spatial import cKDTree
from torch import Tensor

from evaluation.metrics.homography import distinct_points
from evaluation.metrics.pose import RelativePose, relative_pose
from rekd_hloc.types import Keypoints, Matches
from training.scenes.geometry import SceneGeometry, SceneView
from training.scenes.pair_choice import MAX_PAIRS, choose_pairs
from training.scenes.transfer import LiftedKeypoints, carry, lift

RIGHT_PX = 3.0
"""Largest error of a right match, in pixels, times the keypoint's scale where that is above 1."""
EPIPOLAR_PX = 1.5
"""Largest Sampson distance of a match on its epipolar line, in pixels."""


@dataclass(frozen=True, eq=False)
class PairTruth:
    """Where the keypoints of two views lie in each other.

    Attributes:
        a: keypoints of view a.
        b: keypoints of view b.
        a_in_b: the keypoints of a as they must lie in b; only where ``is_seen_in_b``.
        is_seen_in_b: which keypoints of a can be carried to b.
        b_in_a: the keypoints of b as they must lie in a.
        is_seen_in_a: which keypoints of b can be carried to a.
        partner: for each keypoint of a the one of b at the same place, or -1. Either is the
            nearest to the other.
    """

    a: Keypoints
    b: Keypoints
    a_in_b: Keypoints
    is_seen_in_b: Bool[Tensor, " keypoint_a"]
    b_in_a: Keypoints
    is_seen_in_a: Bool[Tensor, " keypoint_b"]
    partner: Int64[Tensor, " keypoint_a"]

    def is_judged(self, index: Int64[Tensor, "match 2"]) -> Bool[Tensor, " match"]:
        """Return which matches start at a keypoint whose place in b is known."""
        return self.is_seen_in_b[index[:, 0]]

    def is_right(self, index: Int64[Tensor, "match 2"]) -> Bool[Tensor, " match"]:
        """Return which of the judged matches end at the keypoint's place; False for the others."""
        of_a, of_b = self.a_in_b[index[:, 0]], self.b[index[:, 1]]
        error = (of_a.xy - of_b.xy).norm(dim=1)
        near: Tensor = error <= _tolerance(of_a.scale, of_b.scale)
        return self.is_judged(index) & near

    def select(
        self, in_a: Int64[Tensor, " chosen_a"], in_b: Int64[Tensor, " chosen_b"]
    ) -> "PairTruth":
        """Return the same for some of the keypoints; partners are sought among them alone."""
        parts = (self.a_in_b[in_a], self.is_seen_in_b[in_a], self.b[in_b])
        return PairTruth(
            a=self.a[in_a],
            b=self.b[in_b],
            a_in_b=self.a_in_b[in_a],
            is_seen_in_b=self.is_seen_in_b[in_a],
            b_in_a=self.b_in_a[in_b],
            is_seen_in_a=self.is_seen_in_a[in_b],
            partner=_find_partners(*parts),
        )


@dataclass(frozen=True)
class RealQuality:
    """How well a matching does on pairs of photos; means over pairs."""

    num_matches: float
    num_right: float
    """Matches that end at the keypoint's place."""
    precision: float
    """Share of the judged matches that are right."""
    recall: float
    """Share of the keypoints with a partner that are matched rightly."""
    average_precision: float
    """Area under the curve of precision over recall, judged matches in order of their score."""
    num_on_line: float
    """Matches on their epipolar line; they count those that cannot be judged too."""


class RealPairs:
    """Pairs of photos of one reconstruction, with what is right between them.

    Args:
        geometry: the reconstruction.
        pairs: numbers of views.
    """

    def __init__(self, geometry: SceneGeometry, pairs: Sequence[tuple[int, int]]) -> None:
        self.geometry = geometry
        self.pairs = tuple(pairs)

    @classmethod
    def read(
        cls,
        model_folder: Path,
        image_folder: Path,
        *,
        max_pairs: int = MAX_PAIRS,
        max_views: int = 0,
        seed: int = 0,
    ) -> Self:
        """Read a COLMAP model and choose pairs of its first ``max_views`` photos (0: of all).

        Raises:
            FileNotFoundError: no such model or photo.
        """
        geometry = SceneGeometry.read(model_folder, image_folder)
        pairs = choose_pairs(geometry, max_pairs=max_pairs, max_views=max_views, seed=seed)
        return cls(geometry, pairs)

    @property
    def used_views(self) -> list[int]:
        """Return the views that a pair holds."""
        return sorted({view for pair in self.pairs for view in pair})

    def lift(self, keypoints: dict[int, Keypoints]) -> dict[int, LiftedKeypoints]:
        """Lift the keypoints of every view, once for all its pairs."""
        return {view: lift(self.geometry, view, of_view) for view, of_view in keypoints.items()}

    def truth(self, lifted: dict[int, LiftedKeypoints], pair: tuple[int, int]) -> PairTruth:
        """Return where the keypoints of a pair's views lie in each other."""
        a, b = (lifted[view] for view in pair)
        a_in_b, is_seen_in_b = carry(self.geometry, a, pair[1])
        b_in_a, is_seen_in_a = carry(self.geometry, b, pair[0])
        in_b, in_a = torch.from_numpy(is_seen_in_b), torch.from_numpy(is_seen_in_a)
        partner = _find_partners(a_in_b, in_b, b.keypoints)
        return PairTruth(a.keypoints, b.keypoints, a_in_b, in_b, b_in_a, in_a, partner)

    def true_pose(self, pair: tuple[int, int]) -> RelativePose:
        """Return the rotation and translation from the frame of a pair's first view to the other's.

        The length of the translation is in the model's unit.
        """
        of, to = (self.geometry.views[view] for view in pair)
        return relative_pose(of.rotation, of.translation, to.rotation, to.translation)

    def is_on_line(
        self, pair: tuple[int, int], matched_a: Keypoints, matched_b: Keypoints
    ) -> Bool[Tensor, " match"]:
        """Return which matches lie on their epipolar line under the model's poses."""
        of, to = (self.geometry.views[view] for view in pair)
        distance = sampson_distance(
            of, to, matched_a.xy.double().numpy(), matched_b.xy.double().numpy()
        )
        return torch.from_numpy(distance <= EPIPOLAR_PX)

    def measure(self, pair: tuple[int, int], truth: PairTruth, matches: Matches) -> RealQuality:
        """Measure the matches of one pair."""
        index = matches.index
        judged, right = truth.is_judged(index), truth.is_right(index)
        has_partner = truth.partner >= 0
        possible = max(int(has_partner.sum()), 1)
        on_line = self.is_on_line(pair, truth.a[index[:, 0]], truth.b[index[:, 1]])
        found = right & has_partner[index[:, 0]]
        return RealQuality(
            num_matches=len(matches),
            num_right=int(right.sum()),
            precision=int(right.sum()) / max(int(judged.sum()), 1),
            recall=int(found.sum()) / possible,
            average_precision=average_precision(matches.score[judged], found[judged], possible),
            num_on_line=int(on_line.sum()),
        )


def mean_quality(qualities: Sequence[RealQuality]) -> RealQuality:
    """Return the means over pairs; zeros for none."""
    values = np.mean([astuple(q) for q in qualities], axis=0) if qualities else np.zeros(6)
    return RealQuality(*(float(value) for value in values))


def repeatability(truth: PairTruth, max_keypoints: int) -> float:
    """Return the share of a detector's keypoints that it finds again in the other photo.

    The strongest ``max_keypoints`` of each photo are taken, and of points nearer than ``RIGHT_PX``
    to each other the strongest. Of those that can be carried, those count that have one within
    ``RIGHT_PX`` in the other photo; both ways together.
    """
    in_a, in_b = (_distinct(keypoints, max_keypoints) for keypoints in (truth.a, truth.b))
    few = truth.select(in_a, in_b)
    hits, seen = 0, 0
    for carried, is_seen, others in (
        (few.a_in_b, few.is_seen_in_b, few.b),
        (few.b_in_a, few.is_seen_in_a, few.a),
    ):
        seen += int(is_seen.sum())
        if len(others) and bool(is_seen.any()):
            distance, _ = cKDTree(others.xy.numpy()).query(carried.xy[is_seen].numpy())
            hits += int((distance <= RIGHT_PX).sum())
    return hits / max(seen, 1)


def sampson_distance(
    of: SceneView, to: SceneView, xy_a: Float64[np.ndarray, "match 2"],
    xy_b: Float64[np.ndarray, "match 2"],
) -> Float64[np.ndarray, " match"]:  # fmt: skip
    """Return each match's Sampson distance from the epipolar geometry of two views, in pixels.

    The distortion is removed, and the pixels are those of a camera without it, of the mean focal
    length of either view.
    """
    rotation, shift = relative_pose(of.rotation, of.translation, to.rotation, to.translation)
    cross = np.array([
        [0, -shift[2], shift[1]],
        [shift[2], 0, -shift[0]],
        [-shift[1], shift[0], 0],
    ])  # fmt: skip
    ones = np.ones((len(xy_a), 1))
    a, b = np.hstack([of.to_rays(xy_a), ones]), np.hstack([to.to_rays(xy_b), ones])
    line_b, line_a = a @ (cross @ rotation).T, b @ (cross @ rotation)
    focal_a, focal_b = of.camera.mean_focal_length(), to.camera.mean_focal_length()
    square = (line_a[:, :2] ** 2).sum(1) / focal_a**2 + (line_b[:, :2] ** 2).sum(1) / focal_b**2
    distance: Float64[np.ndarray, " match"] = np.abs((b * line_b).sum(1)) / np.sqrt(
        np.maximum(square, 1e-24)
    )
    return distance


def _tolerance(scale_a: Tensor, scale_b: Tensor) -> Float[Tensor, " match"]:
    return RIGHT_PX * torch.maximum(scale_a, scale_b).clamp(min=1)


def _find_partners(
    a_in_b: Keypoints, is_seen: Bool[Tensor, " keypoint_a"], b: Keypoints
) -> Int64[Tensor, " keypoint_a"]:
    """Mutual nearest of the carried keypoints and those of b, within the tolerance."""
    partner = torch.full((len(a_in_b),), -1)
    rows = torch.nonzero(is_seen)[:, 0]
    if len(rows) == 0 or len(b) == 0:
        return partner
    carried = a_in_b[rows]
    _, nearest = cKDTree(b.xy.numpy()).query(carried.xy.numpy())
    _, back = cKDTree(carried.xy.numpy()).query(b.xy.numpy())
    of_b = b[torch.from_numpy(nearest)]
    near = (carried.xy - of_b.xy).norm(dim=1) <= _tolerance(carried.scale, of_b.scale)
    mutual = torch.from_numpy(back[nearest] == np.arange(len(rows)))
    partner[rows] = torch.where(near & mutual, torch.from_numpy(nearest), -1)
    return partner


def average_precision(
    score: Float[Tensor, " match"], is_found: Bool[Tensor, " match"], possible: int
) -> float:
    """Return the area under the curve of precision over recall.

    Args:
        score: by which matches are taken, the highest first.
        is_found: which of them are right.
        possible: number of right matches that there could be.
    """
    order = torch.argsort(score, descending=True, stable=True)
    found = is_found[order].double()
    precision = found.cumsum(0) / torch.arange(1, len(found) + 1)
    return float((precision * found).sum()) / possible


def _distinct(keypoints: Keypoints, count: int) -> Int64[Tensor, " chosen"]:
    order = keypoints.strongest(count)
    return order[distinct_points(keypoints.xy[order], threshold_px=RIGHT_PX)]
