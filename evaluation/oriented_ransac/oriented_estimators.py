"""This project's robust estimators: a RANSAC on points, or on features with angle and scale.

``KIND-SAMPLING`` for a fundamental or an essential matrix: ``points`` (7 or 5 of them), ``signed``
(as many, with the angles as a test), ``oriented`` (4 or 3 features) or ``frames`` (3 or 2), see
:mod:`evaluation.oriented_ransac.samplers`. All have the same scoring, local optimisation and
stopping, so that what differs is the sample. Importing this module registers them.
"""

from functools import partial

import numpy as np

from evaluation.oriented_ransac.consensus_loop import ConsensusOptions
from evaluation.oriented_ransac.sample_consensus import estimate_model
from evaluation.relative_pose.correspondences import Correspondences
from evaluation.relative_pose.estimators import (
    Estimator,
    refuse_without_angles,
    register_estimators,
)
from evaluation.relative_pose.two_view import (
    Task,
    TwoView,
    normalise,
    pose_from_essential,
    pose_from_fundamental,
)

SAMPLINGS = ("points", "signed", "oriented", "frames")


def _estimate(kind: str, sampling: str, task: Task) -> TwoView | None:
    options = ConsensusOptions(
        task.threshold_px, confidence=task.confidence, max_samples=task.max_iterations
    )
    rng = np.random.default_rng(task.seed)
    if task.orientations is None:
        refuse_without_angles(f"{kind}-{sampling}", "these features")
    orientations = task.orientations or (np.ones_like(task.xy_a), np.ones_like(task.xy_b))
    matched = Correspondences(task.xy_a, task.xy_b, *orientations)
    K = (task.K_a, task.K_b)
    estimate = estimate_model(kind, matched, rng, intrinsics=K, sampling=sampling, options=options)
    if estimate.model is None or not estimate.inliers.any():
        return None
    xy_a, xy_b = task.xy_a[estimate.inliers], task.xy_b[estimate.inliers]
    if kind == "essential":
        rays = normalise(xy_a, task.K_a), normalise(xy_b, task.K_b)
        return TwoView(pose_from_essential(estimate.model, *rays), estimate.inliers)
    pose = pose_from_fundamental(estimate.model, xy_a, xy_b, task.K_a, task.K_b)
    return TwoView(pose, estimate.inliers)


ORIENTED_ESTIMATORS: dict[str, Estimator] = {
    f"{kind}-{sampling}": partial(_estimate, kind, sampling)
    for kind in ("fundamental", "essential")
    for sampling in SAMPLINGS
}
register_estimators(
    ORIENTED_ESTIMATORS,
    need_angles={name for name in ORIENTED_ESTIMATORS if not name.endswith("-points")},
    module=__name__,
)
