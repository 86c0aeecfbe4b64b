"""Minimal samples by kind of model and name of sampling: their size, and what solves them.

========== ===================== ========================= =========================
sampling   homography            fundamental               essential
========== ===================== ========================= =========================
points     4 points              7 points                  5 points
signed     4 points, rotations   7 points, signs           5 points, signs
oriented   2: angles and areas   4: orientation vectors    3: orientation vectors
vectors    2: orientation vec.   (oriented)                (oriented)
frames     (vectors)             3: rotated, scaled copies 2: rotated, scaled copies
angles     3: angles alone       (signed)                  (signed)
========== ===================== ========================= =========================

``signed`` drops models for which a sample's angles lie on opposite sides of the epipolar lines (or
that rotate them otherwise than the angles say) before they are scored; it needs no scale.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from evaluation.oriented_ransac import oriented_solvers, point_solvers
from evaluation.oriented_ransac.oriented_constraints import (
    has_right_signs,
    homogeneous,
    homography_vector_rows,
)
from evaluation.oriented_ransac.point_solvers import Solutions
from evaluation.relative_pose.correspondences import Correspondences

Models = Float64[np.ndarray, "model 3 3"]

SIGN_TOLERANCE_DEG = 8.0
"""Twice the usual noise of an angle: nearer to the epipolar line the side tells nothing."""
ROTATION_TOLERANCE_DEG = 30.0
"""That of the project's orientation filter."""


@dataclass(frozen=True)
class Sampler:
    """How minimal samples are solved.

    Attributes:
        size: correspondences of a sample.
        solve: all models of a batch of samples.
        width: raw models are scored, and their supporters chosen, at so many thresholds; models
            from noisy angles have few inliers within one threshold even where they are right.
        efficiency: share of samples of inliers alone that lead to the model; sampling goes on
            accordingly. At most what was measured at 10 to 20 % inliers on synthetic scenes with
            noisy angles and coarse scales (0.45 for H from 2, 0.34 for F from 3, 0.46 for E from 2;
            where samples of near inliers help as well, it is above 1).
        check: which models of which samples are kept, if there is more to ask.
    """

    size: int
    solve: Callable[[Correspondences], Solutions]
    width: float = 3.0
    efficiency: float = 1.0
    check: Callable[[Models, Correspondences], Bool[np.ndarray, " model"]] | None = None

    def models(self, c: Correspondences) -> Models:
        """Models of a batch of samples, of unit length."""
        models, sample = self.solve(c)
        if self.check is None or len(models) == 0:
            return models
        return np.asarray(models[self.check(models, c[sample])])


def draw_samples(
    rng: np.random.Generator, count: int, size: int, num_samples: int
) -> Int64[np.ndarray, "sample size"]:
    """Rows of different indices below ``count``, which must be at least ``size``."""
    samples = rng.integers(count, size=(num_samples, size))
    while True:
        ordered = np.sort(samples, axis=1)
        repeats = np.nonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))[0]
        if len(repeats) == 0:
            return samples
        samples[repeats] = rng.integers(count, size=(len(repeats), size))


def find_sampler(kind: str, sampling: str) -> Sampler:
    """Return the sampler of that name.

    Raises:
        ValueError: there is none; the message lists them.
    """
    if sampling not in SAMPLERS[kind]:
        known = ", ".join(SAMPLERS[kind])
        raise ValueError(f"no sampling {sampling!r} for a {kind} model; there are {known}")
    return SAMPLERS[kind][sampling]


def _signs_agree(models: Models, c: Correspondences) -> Bool[np.ndarray, " model"]:
    return np.asarray(has_right_signs(models, c, SIGN_TOLERANCE_DEG).all(axis=1))


def _rotations_agree(models: Models, c: Correspondences) -> Bool[np.ndarray, " model"]:
    """Say whether homographies send the directions of a sample where its angles say."""
    rows = homography_vector_rows(c) @ models.reshape(-1, 1, 9, 1)
    depth = (homogeneous(c.xy_a) @ models[:, 2, :, None])[..., 0]
    image = (rows[..., 0] + c.orientation_b * depth[..., None]) * np.sign(depth)[..., None]
    length = np.linalg.norm(image, axis=-1) * np.linalg.norm(c.orientation_b, axis=-1)
    cosine = (image * c.orientation_b).sum(-1) / np.maximum(length, 1e-300)
    return np.asarray((cosine > np.cos(np.radians(ROTATION_TOLERANCE_DEG))).all(axis=1))


SAMPLERS = {
    "homography": {
        "points": Sampler(4, point_solvers.homography_from_points),
        "signed": Sampler(4, point_solvers.homography_from_points, check=_rotations_agree),
        "oriented": Sampler(2, oriented_solvers.homography_from_oriented, 12.0, 0.4),
        "vectors": Sampler(2, oriented_solvers.homography_from_vectors, 12.0, 0.4),
        "angles": Sampler(3, oriented_solvers.homography_from_angles, 12.0, 0.5),
    },
    "fundamental": {
        "points": Sampler(7, point_solvers.fundamental_from_points),
        "signed": Sampler(7, point_solvers.fundamental_from_points, check=_signs_agree),
        "oriented": Sampler(4, oriented_solvers.fundamental_from_oriented, 12.0, 0.2),
        "frames": Sampler(3, oriented_solvers.fundamental_from_frames, 12.0, 0.1),
    },
    "essential": {
        "points": Sampler(5, point_solvers.essential_from_points),
        "signed": Sampler(5, point_solvers.essential_from_points, check=_signs_agree),
        "oriented": Sampler(3, oriented_solvers.essential_from_oriented, 12.0, 0.1),
        "frames": Sampler(2, oriented_solvers.essential_from_frames, 12.0, 0.05),
    },
}
"""By kind of model and name of sampling."""
