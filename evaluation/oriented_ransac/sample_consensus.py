"""Homography, fundamental and essential matrix from matches of which many are wrong.

RANSAC in one frame whose samples are points, or features with angle and scale, of which fewer
determine a model. The samplings are listed in :mod:`evaluation.oriented_ransac.samplers`, the
constraints derived in :mod:`evaluation.oriented_ransac.oriented_constraints`, the loop is
:mod:`evaluation.oriented_ransac.consensus_loop`.
"""

from dataclasses import replace

import numpy as np

from evaluation.oriented_ransac.consensus_loop import ConsensusOptions, Estimate, Problem, run
from evaluation.oriented_ransac.samplers import find_sampler
from evaluation.oriented_ransac.two_view_models import (
    TwoViewModel,
    common_frame,
    epipolar_model,
    homography_model,
)
from evaluation.relative_pose.correspondences import Correspondences, Matrix

DEFAULTS = ConsensusOptions()


def estimate_model(
    kind: str,
    c: Correspondences,
    rng: np.random.Generator,
    *,
    intrinsics: tuple[Matrix, Matrix] | None = None,
    sampling: str = "oriented",
    options: ConsensusOptions = DEFAULTS,
) -> Estimate:
    """Estimate H: ``x_b ~ H x_a``, F: ``x_b^T F x_a = 0``, or E: ``ray_b^T E ray_a = 0``.

    Args:
        kind: ``homography``, ``fundamental`` or ``essential``.
        c: matches in pixels, from ``make_correspondences`` or ``correspondences_of``; ``points``
            ignores angles and scales.
        rng: source of the samples; equal states give equal results unless time ends the sampling.
        intrinsics: K of images a and b, last row 0, 0, 1; only E needs them, for rays ``K^-1 x``.
        sampling: a name of :mod:`evaluation.oriented_ransac.samplers`.
        options: limits, and the threshold, which is in pixels for E too.

    Returns:
        Models of unit length in pixels (E: on rays).

    Raises:
        ValueError: there is no such sampling, or E lacks the intrinsics.
    """
    problem, left, right = _set_up(kind, c, intrinsics, sampling, options)
    result = run(problem, rng, options)
    history = []
    for step in result.history:
        matrix = left @ step.model @ right
        history.append(replace(step, model=matrix / np.linalg.norm(matrix)))
    return replace(result, history=tuple(history))


def _set_up(
    kind: str, c: Correspondences, intrinsics: tuple[Matrix, Matrix] | None, sampling: str,
    options: ConsensusOptions,
) -> tuple[Problem, Matrix, Matrix]:  # fmt: skip
    """The problem in its frame, and what its models are multiplied by on both sides after it.

    The threshold is brought into the frame, which scales both images alike.
    """
    frame_a, frame_b = common_frame(c)
    inside = sampled = c.moved(frame_a, frame_b)
    model: TwoViewModel
    if kind == "homography":
        model = homography_model(inside)
        left, right = np.linalg.inv(frame_b), frame_a
    elif kind == "fundamental":
        model = epipolar_model(inside)
        left, right = frame_b.T, frame_a
    elif intrinsics is None:
        raise ValueError("an essential matrix needs the intrinsics of both images")
    else:
        rays = [np.linalg.inv(matrix) for matrix in intrinsics]
        frames = frame_a, frame_b
        pixels = [ray @ np.linalg.inv(frame) for ray, frame in zip(rays, frames, strict=True)]
        model = epipolar_model(inside, *pixels)
        sampled = c.moved(*rays)
        left = right = np.eye(3)
    sampler, points = find_sampler(kind, sampling), find_sampler(kind, "points")
    squared = float(options.threshold_px * frame_a[0, 0]) ** 2
    return Problem(model, sampled, sampler, points, squared), left, right
