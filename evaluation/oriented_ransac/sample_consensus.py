"""Homography, fundamental and essential matrix from matches of which many are wrong.

RANSAC in one frame whose samples are points, or features with angle and scale, of which fewer
determine a model. The samplings are listed in :mod:`evaluation.oriented_ransac.samplers`, the
constraints derived in :mod:`evaluation.oriented_ransac.oriented_constraints`, the loop is
:mod:`evaluation.oriented_ransac.consensus_loop`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from evaluation.oriented_ransac.consensus_loop import ConsensusOptions, Improvement, Problem, run
from evaluation.oriented_ransac.samplers import find_sampler
from evaluation.oriented_ransac.two_view_models import (
    TwoViewModel,
    common_frame,
    epipolar_model,
    homography_model,
)
from evaluation.relative_pose.correspondences import Correspondences, Matrix

__all__ = [
    "ConsensusOptions",
    "Estimate",
    "estimate_essential",
    "estimate_fundamental",
    "estimate_homography",
]

DEFAULTS = ConsensusOptions()


@dataclass(frozen=True, eq=False)
class Estimate:
    """The result of a robust estimation.

    Attributes:
        model: 3x3 of unit length in pixels (E: on rays); None where there is none.
        inliers: matches within the threshold.
        num_samples: samples that were drawn.
        seconds: CPU time of this thread.
        cost: MSAC's: the sum over matches of min(error / threshold, 1) squared.
        history: ever better models with their times; the last is ``model``.
    """

    model: Matrix | None
    inliers: Bool[np.ndarray, " match"]
    num_samples: int
    seconds: float
    cost: float
    history: tuple[Improvement, ...]


def estimate_homography(
    c: Correspondences,
    rng: np.random.Generator,
    *,
    sampling: str = "oriented",
    options: ConsensusOptions = DEFAULTS,
) -> Estimate:
    """H with ``x_b ~ H x_a`` in pixels.

    Args:
        c: matches in pixels, from ``make_correspondences`` (arrays) or ``correspondences_of``
            (features) of :mod:`evaluation.oriented_ransac.oriented_constraints`; ``points`` ignores
            angles and scales.
        rng: source of the samples; equal states give equal results unless time ends the sampling.
        sampling: ``oriented`` or ``steps`` (samples of 2), ``angles`` (3, without scales),
            ``signed`` or ``points`` (4).
        options: threshold in pixels and limits.

    Raises:
        ValueError: there is no such sampling.
    """
    frame_a, frame_b = common_frame(c)
    inside = c.moved(frame_a, frame_b)
    problem = _problem("homography", sampling, homography_model(inside), inside, frame_a, options)
    back = np.linalg.inv(frame_b)
    return _estimate(problem, rng, options, lambda model: back @ model @ frame_a)


def estimate_fundamental(
    c: Correspondences,
    rng: np.random.Generator,
    *,
    sampling: str = "oriented",
    options: ConsensusOptions = DEFAULTS,
) -> Estimate:
    """F with ``x_b^T F x_a = 0`` in pixels.

    Args:
        c: matches in pixels, as for :func:`estimate_homography`.
        rng: source of the samples.
        sampling: ``oriented`` (samples of 4), ``frames`` (3), ``signed`` or ``points`` (7).
        options: threshold in pixels and limits.

    Raises:
        ValueError: there is no such sampling.
    """
    frame_a, frame_b = common_frame(c)
    inside = c.moved(frame_a, frame_b)
    problem = _problem("fundamental", sampling, epipolar_model(inside), inside, frame_a, options)
    return _estimate(problem, rng, options, lambda model: frame_b.T @ model @ frame_a)


def estimate_essential(
    c: Correspondences,
    K_a: Matrix,
    K_b: Matrix,
    rng: np.random.Generator,
    *,
    sampling: str = "oriented",
    options: ConsensusOptions = DEFAULTS,
) -> Estimate:
    """E with ``ray_b^T E ray_a = 0`` for rays ``K^-1 x``; errors are in pixels.

    Args:
        c: matches in pixels, as for :func:`estimate_homography`.
        K_a: intrinsics of image a in the frame of its points; last row 0, 0, 1.
        K_b: intrinsics of image b.
        rng: source of the samples.
        sampling: ``oriented`` (samples of 3), ``frames`` (2), ``signed`` or ``points`` (5).
        options: threshold in pixels and limits.

    Raises:
        ValueError: there is no such sampling.
    """
    frame_a, frame_b = common_frame(c)
    ray_from_a, ray_from_b = np.linalg.inv(K_a), np.linalg.inv(K_b)
    kind = epipolar_model(
        c.moved(frame_a, frame_b),
        ray_from_a @ np.linalg.inv(frame_a),
        ray_from_b @ np.linalg.inv(frame_b),
    )
    rays = c.moved(ray_from_a, ray_from_b)
    problem = _problem("essential", sampling, kind, rays, frame_a, options)
    return _estimate(problem, rng, options, lambda model: model)


def _problem(
    kind: str, sampling: str, model: TwoViewModel, sampled: Correspondences, frame: Matrix,
    options: ConsensusOptions,
) -> Problem:  # fmt: skip
    """The threshold is brought into the frame, which scales both images alike."""
    sampler, points = find_sampler(kind, sampling), find_sampler(kind, "points")
    squared = float(options.threshold_px * frame[0, 0]) ** 2
    return Problem(model, sampled, sampler, points, squared)


def _estimate(
    problem: Problem,
    rng: np.random.Generator,
    options: ConsensusOptions,
    to_pixels: Callable[[Matrix], Matrix],
) -> Estimate:
    estimate = run(problem, rng, options)
    history = []
    for step in estimate.history:
        model = to_pixels(step.model)
        history.append(replace(step, model=model / np.linalg.norm(model)))
    return Estimate(
        history[-1].model if history else None,
        estimate.inliers,
        estimate.num_samples,
        estimate.seconds,
        estimate.cost,
        tuple(history),
    )
