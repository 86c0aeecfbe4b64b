"""What a choice of keypoints brings on pairs of photos: right matches, and the relative pose."""

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from evaluation.metrics.pose import FAILED, pose_error_deg
from evaluation.relative_pose.estimators import RansacOptions, estimate_pose
from rekd_hloc.config import MatchConfig
from rekd_hloc.features.described import Described
from rekd_hloc.matching.match import match
from rekd_hloc.types import Features, Matches
from training.scenes.real_pairs import PairTruth, RealPairs, RealQuality

MATCHINGS = {
    "mutual": MatchConfig(filter="none"),
    "filtered": MatchConfig(ratio=0.9),
}
"""Mutual neighbours alone, and with the ratio test and the orientation filter."""
RANSAC = RansacOptions(max_iterations=20_000)
"""As in the benchmark, but for a fifth of the samples."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """The keypoints of one view that a choice keeps.

    Attributes:
        index: of each among the view's candidates; one may be there twice, with two angles.
        features: of each, in the same order.
    """

    index: Int64[Tensor, " chosen"]
    features: Features

    @classmethod
    def of(
        cls,
        candidates: Described,
        index: Int64[Tensor, " chosen"],
        size: tuple[int, int],
        descriptors: Float[Tensor, "chosen channel"] | None = None,
    ) -> Self:
        """Choose candidates by index, with their own descriptors or with others."""
        picked = candidates[index]
        described = picked.descriptors if descriptors is None else descriptors
        return cls(index, Features(picked.keypoints, described, size))


@dataclass(frozen=True)
class PairScore:
    """What one choice brings on one pair."""

    quality: RealQuality
    pose_error_deg: float
    """Larger of the errors of rotation and direction; inf without an estimate."""

    def to_record(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        error = self.pose_error_deg
        return {**asdict(self.quality), "pose_error_deg": error if np.isfinite(error) else None}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """Invert :meth:`to_record`."""
        values = dict(record)
        error = values.pop("pose_error_deg")
        return cls(RealQuality(**values), FAILED if error is None else error)


def score_pair(
    scene: RealPairs,
    pair: tuple[int, int],
    truth: PairTruth,
    chosen: tuple[Chosen, Chosen],
    config: MatchConfig,
    *,
    with_pose: bool,
) -> PairScore:
    """Match the chosen keypoints of a pair and measure.

    Args:
        scene: that the pair is of.
        pair: numbers of the views.
        truth: of all their candidates.
        chosen: of either view.
        config: of the matching.
        with_pose: estimate the relative pose too, which takes longest.
    """
    a, b = chosen
    matches = match(a.features, b.features, config)
    of_chosen = truth.select(a.index, b.index)
    quality = scene.measure(pair, of_chosen, matches)
    error = _pose_error(scene, pair, chosen, matches) if with_pose else FAILED
    return PairScore(quality, error)


def _pose_error(
    scene: RealPairs, pair: tuple[int, int], chosen: tuple[Chosen, Chosen], matches: Matches
) -> float:
    """Error of the pose in F by DEGENSAC, from pixels without distortion."""
    points, intrinsics = [], []
    for side, view in enumerate(scene.geometry.views[number] for number in pair):
        focal = float(view.camera.mean_focal_length())
        xy = chosen[side].features.keypoints.xy[matches.index[:, side]]
        points.append(view.to_rays(xy.double().numpy()) * focal)
        intrinsics.append(np.diag([focal, focal, 1.0]))
    (xy_a, xy_b), (K_a, K_b) = points, intrinsics
    estimate = estimate_pose(xy_a, xy_b, K_a, K_b, RANSAC, seed=0)
    return pose_error_deg(estimate.pose, scene.true_pose(pair))
