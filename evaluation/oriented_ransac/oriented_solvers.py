"""Minimal solvers on oriented correspondences: H from 2 (3 by angles), F from 4, E from 3.

Each takes a batch of samples and gives all models of all samples, as those of
:mod:`evaluation.oriented_ransac.point_solvers` do with more points. The constraints, and where
they are exact, are in :mod:`evaluation.oriented_ransac.oriented_constraints`.
"""

import numpy as np
from jaxtyping import Float64

from evaluation.oriented_ransac.oriented_constraints import (
    epipolar_rows,
    frame_rows,
    homogeneous,
    homography_angle_rows,
    homography_rows,
    homography_vector_rows,
    oriented_rows,
)
from evaluation.oriented_ransac.point_solvers import (
    Solutions,
    cubic_monomials,
    cubic_roots,
    determinant_cubic,
    essential_equations,
    finite,
    null_space,
    orthonormal_space,
    rank_two,
    single,
    solve,
)
from evaluation.relative_pose.correspondences import Correspondences

MONOMIALS = np.array(cubic_monomials(3))
CUBES = [cubic_monomials(3).index((i, i, i)) for i in range(3)]
LINEAR = [
    [cubic_monomials(3).index(tuple(sorted((i, i, j)))) for j in range(3)]  # type: ignore[arg-type]
    for i in range(3)
]
"""Places of x^2 x, x^2 y, x^2 z for each weight x that may be the largest."""
NUM_POLISHINGS = 3
SMALL = 1e-10


def homography_from_oriented(c: Correspondences) -> Solutions:
    """H from batches of 2 features with angles and scales: up to three.

    Points and angles give six linear equations (Barath and Kukelova, ICCV 2019). Scales give
    det H = q^2 (h_3.x_a)^3, q being scale b / scale a. The cube root of the quotient of the two is
    a seventh linear equation, so that one cubic in one unknown is left.
    """
    count = len(c.xy_a)
    linear = [homography_rows(c).reshape(count, 4, 9), homography_angle_rows(c)]
    area = _area_ratio(c)
    depth = np.zeros((count, 2, 9))
    depth[:, :, 6:] = homogeneous(c.xy_a) * np.cbrt(area)[:, :, None]
    basis = null_space(np.concatenate([*linear, depth[:, :1] - depth[:, 1:]], axis=1))
    a, b = (depth[:, :1, 6:] @ basis[:, :, 2].swapaxes(1, 2))[:, 0].T
    cubic = determinant_cubic(basis) - np.stack([a**3, 3 * a * a * b, 3 * a * b * b, b**3], -1)
    roots = cubic_roots(cubic)
    sample, which = np.nonzero(np.isfinite(roots))
    weight = roots[sample, which][:, None, None]
    return _forward(finite(basis[sample, 0] + weight * basis[sample, 1], sample), c)


def homography_from_vectors(c: Correspondences) -> Solutions:
    """H from batches of 2 features whose scale is that along the angle: eight linear equations."""
    count = len(c.xy_a)
    rows = [homography_rows(c).reshape(count, 4, 9), homography_vector_rows(c).reshape(count, 4, 9)]
    return _forward(single(null_space(np.concatenate(rows, axis=1))[:, 0]), c)


def homography_from_angles(c: Correspondences) -> Solutions:
    """H from batches of 3 features, by their angles alone; that of the last one only checks."""
    count = len(c.xy_a)
    rows = [homography_rows(c).reshape(count, 6, 9), homography_angle_rows(c)[:, :2]]
    return _forward(single(null_space(np.concatenate(rows, axis=1))[:, 0]), c)


def fundamental_from_oriented(c: Correspondences) -> Solutions:
    """F from batches of 4 oriented features: up to three, of rank two.

    Four points and the first three of the oriented constraints (Barath and Kukelova, ECCV 2022).
    """
    rows = np.concatenate([epipolar_rows(c), _even(oriented_rows(c)[:, :3])], axis=1)
    return rank_two(null_space(rows))


def fundamental_from_frames(c: Correspondences) -> Solutions:
    """F from batches of 3 features taken as rotated and scaled copies: up to three, of rank two."""
    extra = [_even(oriented_rows(c)[:, :2]), _even(frame_rows(c)[:, :2])]
    return rank_two(null_space(np.concatenate([epipolar_rows(c), *extra], axis=1)))


def essential_from_oriented(c: Correspondences) -> Solutions:
    """E from batches of 3 oriented features of calibrated cameras: one."""
    return _essential(np.concatenate([epipolar_rows(c), _even(oriented_rows(c))], axis=1))


def essential_from_frames(c: Correspondences) -> Solutions:
    """E from batches of 2 features taken as rotated and scaled copies: one."""
    rows = [epipolar_rows(c), _even(oriented_rows(c)), _even(frame_rows(c))]
    return _essential(np.concatenate(rows, axis=1))


def _essential(rows: Float64[np.ndarray, "sample 6 9"]) -> Solutions:
    """E from six linear equations.

    In a basis of three matrices the ten equations of an essential matrix are linear in the ten
    monomials of degree three, so those are a null vector. Noise leaves none: the nearest vector is
    taken, and its weights are improved on the equations themselves by Gauss and Newton's method.
    """
    basis = orthonormal_space(rows)
    equations = essential_equations(basis)
    weights = _improve(_weights(_null_vector(equations)), equations)
    essential = finite(np.einsum("sv,svij->sij", weights, basis), np.arange(len(rows)))
    left, _, right = np.linalg.svd(essential.models)
    models = left[:, :, :2] @ right[:, :2]
    return finite(models, essential.sample)


def _null_vector(
    equations: Float64[np.ndarray, "sample 10 monomial"],
) -> Float64[np.ndarray, "sample monomial"]:
    """Return the direction that the equations shrink most, by three inverse iterations."""
    normal = equations.swapaxes(1, 2) @ equations
    size = np.trace(normal, axis1=1, axis2=2)[:, None, None] + 1e-300
    normal = normal / size + 1e-15 * np.eye(10)
    start = np.ones((len(equations), 10, 1))
    start[:, ::2] = -0.7
    for _ in range(3):
        start = solve(normal, start)
        start /= np.sqrt((start * start).sum(1, keepdims=True))
    return start[:, :, 0]


def _weights(monomials: Float64[np.ndarray, "sample monomial"]) -> Float64[np.ndarray, "sample 3"]:
    """x : y : z from the vector of monomials, as x^2 x : x^2 y : x^2 z for the largest cube."""
    largest = abs(monomials[:, CUBES]).argmax(axis=1)
    weights = np.take_along_axis(monomials, np.array(LINEAR)[largest], axis=1)
    return np.asarray(weights / np.sqrt((weights * weights).sum(1, keepdims=True) + 1e-300))


def _improve(
    weights: Float64[np.ndarray, "sample 3"], equations: Float64[np.ndarray, "sample 10 monomial"]
) -> Float64[np.ndarray, "sample 3"]:
    """Unit weights with a smaller sum of squared equations."""
    for _ in range(NUM_POLISHINGS):
        a, b, c = (weights[:, MONOMIALS[:, i]] for i in range(3))
        value = (equations @ (a * b * c)[:, :, None])[:, :, 0]
        slopes = np.zeros((len(weights), 10, 3))
        for i, other in enumerate((b * c, a * c, a * b)):
            slopes[:, np.arange(10), MONOMIALS[:, i]] += other
        jacobian = equations @ slopes
        normal = jacobian.swapaxes(1, 2) @ jacobian
        size = np.trace(normal, axis1=1, axis2=2)[:, None, None]
        # along the weights themselves the equations only scale: that direction is held
        held = normal + size * (weights[:, :, None] * weights[:, None]) + (SMALL * size) * np.eye(3)
        gradient = jacobian.swapaxes(1, 2) @ value[:, :, None]
        gradient -= weights[:, :, None] * (weights[:, None] @ gradient)
        weights = weights - solve(held, gradient)[:, :, 0]
        weights = weights / np.sqrt((weights * weights).sum(1, keepdims=True) + 1e-300)
    return weights


def _forward(solutions: Solutions, c: Correspondences) -> Solutions:
    """Models that send every vector ahead, and not back: parallel rows know no sign."""
    models, sample = solutions
    flat = models.reshape(len(models), 1, 9, 1)
    moved = (homography_vector_rows(c)[sample] @ flat)[..., 0]
    depth = homogeneous(c.xy_a[sample]) @ models[:, 2, :, None]
    # the vector rows hold A d_a minus d_b, times the depth
    image = moved + c.orientation_b[sample] * depth
    ahead = ((image * c.orientation_b[sample]).sum(-1) * depth[..., 0] > 0).all(axis=1)
    return Solutions(models[ahead], sample[ahead])


def _area_ratio(c: Correspondences) -> Float64[np.ndarray, "sample correspondence"]:
    squares = [(vector * vector).sum(-1) for vector in (c.orientation_a, c.orientation_b)]
    ratio: Float64[np.ndarray, "sample correspondence"] = squares[1] / squares[0]
    return ratio


def _even(rows: np.ndarray) -> np.ndarray:
    """Return rows of unit length, so that the unit of scales does not weigh them."""
    scaled: np.ndarray = rows / np.sqrt((rows * rows).sum(-1, keepdims=True) + 1e-300)
    return scaled
