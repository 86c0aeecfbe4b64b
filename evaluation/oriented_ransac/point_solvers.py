"""Minimal solvers on points for many samples at once: H from 4, F from 7 or 8, E from 5.

They are vectorised over the samples, so that what a sample costs can be compared with
:mod:`evaluation.oriented_ransac.oriented_solvers`, which share their algebra. Rows are those of
:mod:`evaluation.oriented_ransac.oriented_constraints`; a model's entries are in row order.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from evaluation.oriented_ransac.oriented_constraints import epipolar_rows, homography_rows
from evaluation.relative_pose.correspondences import Correspondences

Basis = Float64[np.ndarray, "sample vector 3 3"]

SMALLEST = 1e-300
"""Divisors are kept away from 0 by it."""
LOWER = slice(10, 20)
TIMES_X = ((0, 1, 2, 3, 4, 5), (0, 1, 2, 6))
"""x times the ten lower monomials: rows of cubic ones, and places of lower ones."""


class Solutions(NamedTuple):
    """Models of a batch of samples; a sample may have none or several.

    Attributes:
        models: of any scale and sign.
        sample: which sample each model comes from.
    """

    models: Float64[np.ndarray, "model 3 3"]
    sample: Int64[np.ndarray, " model"]


def homography_from_points(c: Correspondences) -> Solutions:
    """H from batches of 4 points: the null vector of eight rows."""
    rows = homography_rows(c)
    return single(null_space(rows.reshape(len(rows), 8, 9))[:, 0])


def fundamental_from_points(c: Correspondences) -> Solutions:
    """F from batches of 7 points: up to three, of rank two."""
    return rank_two(null_space(epipolar_rows(c)))


def essential_from_points(c: Correspondences) -> Solutions:
    """E from batches of 5 points of calibrated cameras: up to ten.

    Nistér's constraints (PAMI 2004) with the action matrix of Stewénius et al. (2006): the ten
    cubics express ten monomials of degree three by ten lower ones; multiplying those by x is a
    10x10 matrix whose real eigenvectors hold x, y and z.
    """
    basis = orthonormal_space(epipolar_rows(c))
    equations = essential_equations(basis)[:, :, ORDER]
    reduced = -solve(equations[:, :, :10], equations[:, :, LOWER])
    action = np.zeros_like(reduced)
    action[:, :6] = reduced[:, TIMES_X[0]]
    action[:, [6, 7, 8, 9], TIMES_X[1]] = 1
    good = np.isfinite(action).all(axis=(1, 2))
    values, vectors = np.linalg.eig(np.where(good[:, None, None], action, 0))
    sample, which = np.nonzero((abs(values.imag) < 1e-12 * (1 + abs(values))) & good[:, None])
    lower = vectors[sample, :, which].real
    weights = lower[:, 6:10]
    return finite(np.einsum("mv,mvij->mij", weights, basis[sample]), sample)


def null_space(rows: Float64[np.ndarray, "sample equation 9"]) -> Basis:
    """Matrices that fulfil all rows, 9 less the number of rows; not orthogonal.

    By elimination, which is ten times faster than a singular value decomposition (measured).
    """
    size = rows.shape[1]
    basis = np.zeros((len(rows), 9 - size, 9))
    basis[:, :, :size] = -solve(rows[:, :, :size], rows[:, :, size:]).swapaxes(1, 2)
    basis[:, :, size:] = np.eye(9 - size)
    length = np.sqrt((basis * basis).sum(-1, keepdims=True))
    return np.asarray((basis / length).reshape(len(rows), 9 - size, 3, 3))


def orthonormal_space(rows: Float64[np.ndarray, "sample equation 9"]) -> Basis:
    """Return the same with an orthonormal basis, which the equations of degree three need."""
    basis = null_space(rows)
    flat = basis.reshape(*basis.shape[:2], 9).swapaxes(1, 2)
    flat = np.where(np.isfinite(flat), flat, 0)
    return np.asarray(np.linalg.qr(flat)[0].swapaxes(1, 2).reshape(basis.shape))


def rank_two(basis: Float64[np.ndarray, "sample 2 3 3"]) -> Solutions:
    """Combinations of two matrices whose determinant is 0: up to three."""
    roots = cubic_roots(determinant_cubic(basis))
    sample, which = np.nonzero(np.isfinite(roots))
    weight = roots[sample, which][:, None, None]
    return finite(basis[sample, 0] + weight * basis[sample, 1], sample)


def determinant_cubic(
    basis: Float64[np.ndarray, "sample 2 3 3"],
) -> Float64[np.ndarray, "sample 4"]:
    """Coefficients of det(first + t second), from t^0 to t^3."""
    first, second = basis[:, 0], basis[:, 1]
    cofactor_first, cofactor_second = _cofactors(first), _cofactors(second)
    parts = [
        (first[:, 0] * cofactor_first[:, 0]).sum(-1),
        (second * cofactor_first).sum((1, 2)),
        (first * cofactor_second).sum((1, 2)),
        (second[:, 0] * cofactor_second[:, 0]).sum(-1),
    ]
    return np.stack(parts, axis=-1)


def cubic_roots(coefficients: Float64[np.ndarray, "sample 4"]) -> Float64[np.ndarray, "sample 3"]:
    """Real roots of cubics given from the constant term on; nan for those that are not real."""
    with np.errstate(all="ignore"):
        c0, c1, c2, c3 = coefficients.T
        shift = c2 / (3 * c3)
        p = c1 / c3 - 3 * shift * shift
        q = c0 / c3 - shift * c1 / c3 + 2 * shift**3
        inside = q * q / 4 + p**3 / 27
        half = -q / 2 - np.where(q >= 0, 1, -1) * np.sqrt(np.maximum(inside, 0))
        first = np.cbrt(half)
        lone = first - p / (3 * first) - shift
        radius = np.sqrt(np.maximum(-p / 3, 0))
        angle = np.arccos(np.clip(-q / (2 * radius**3), -1, 1))
        angles = (angle[:, None] - 2 * np.pi * np.arange(3)) / 3
        three = 2 * radius[:, None] * np.cos(angles) - shift[:, None]
        alone = np.stack([lone, np.full_like(lone, np.nan), np.full_like(lone, np.nan)], -1)
        roots = np.where((inside > 0)[:, None], alone, three)
        for _ in range(2):
            value = ((c3[:, None] * roots + c2[:, None]) * roots + c1[:, None]) * roots
            slope = (3 * c3[:, None] * roots + 2 * c2[:, None]) * roots + c1[:, None]
            step = (value + c0[:, None]) / slope
            roots = np.where(np.isfinite(step), roots - step, roots)
    return np.asarray(roots)


def essential_equations(basis: Basis) -> Float64[np.ndarray, "sample 10 monomial"]:
    """2 E E^T E - tr(E E^T) E = 0 and det E = 0 for E = sum of weights times the basis.

    Columns are the monomials of degree three in the weights, in the order of
    :func:`cubic_monomials`; rows the nine entries and the determinant.
    """
    count = basis.shape[1]
    squares = basis[:, :, None] @ basis.swapaxes(2, 3)[:, None]
    trace = np.trace(squares, axis1=-2, axis2=-1)
    products = 2 * squares[:, :, :, None] @ basis[:, None, None]
    products -= trace[:, :, :, None, None, None] * basis[:, None, None]
    crossed = np.cross(basis[:, :, None, 1], basis[:, None, :, 2])
    determinants = np.einsum("sai,sbci->sabc", basis[:, :, 0], crossed)
    flat = products.reshape(len(basis), count**3, 9)
    terms = np.concatenate([flat, determinants.reshape(len(basis), count**3, 1)], axis=2)
    equations: Float64[np.ndarray, "sample 10 monomial"] = terms.swapaxes(1, 2) @ GATHER[count]
    return equations


def cubic_monomials(count: int) -> list[tuple[int, int, int]]:
    """Exponents as sorted index triples: (0, 0, 1) is the square of the first times the second."""
    return [(a, b, c) for a, b, c in itertools.combinations_with_replacement(range(count), 3)]


def single(models: Float64[np.ndarray, "sample 3 3"]) -> Solutions:
    """Return one model for each sample, without those that are not finite."""
    return finite(models, np.arange(len(models)))


def finite(
    models: Float64[np.ndarray, "model 3 3"], sample: Int64[np.ndarray, " model"]
) -> Solutions:
    """Models of unit length, without those that are not finite."""
    length = np.sqrt((models * models).sum((1, 2)))
    good = np.isfinite(length) & (length > SMALLEST)
    return Solutions(models[good] / length[good, None, None], sample[good])


def solve(matrices: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Batched linear systems; singular ones give the least squares solution, not an error."""
    try:
        solution: np.ndarray = np.linalg.solve(matrices, right)
    except np.linalg.LinAlgError:
        solution = np.linalg.pinv(np.nan_to_num(matrices)) @ right
    return solution


def _cofactors(matrix: np.ndarray) -> np.ndarray:
    """Cofactor matrices: rows are cross products of the other two rows."""
    first, second, third = matrix[:, 0], matrix[:, 1], matrix[:, 2]
    parts = [np.cross(second, third), np.cross(third, first), np.cross(first, second)]
    return np.stack(parts, axis=1)


def _gather(count: int) -> Float64[np.ndarray, "triple monomial"]:
    """Adds up the terms of ordered triples to monomials."""
    place = {triple: i for i, triple in enumerate(cubic_monomials(count))}
    matrix = np.zeros((count**3, len(place)))
    for i, triple in enumerate(itertools.product(range(count), repeat=3)):
        a, b, c = sorted(triple)
        matrix[i, place[a, b, c]] = 1
    return matrix


def _order() -> list[int]:
    """Monomials of four weights with the last one set to 1: cubic ones first, then lower ones."""
    triples = cubic_monomials(4)
    lower = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2), (0,), (1,), (2,), ()]
    padded = [(*term, *[3] * (3 - len(term))) for term in lower]
    return [i for i, t in enumerate(triples) if 3 not in t] + [triples.index(t) for t in padded]  # type: ignore[arg-type]


GATHER = {count: _gather(count) for count in (3, 4)}
ORDER = _order()
