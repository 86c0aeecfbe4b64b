"""What a correspondence with angle and scale says about F, E and H, as rows of linear equations.

A feature is a point x and an orientation vector d: along its angle, as long as its scale.
Vectors go with the first-order map A of the surface around the point; the three uses of that are

* **oriented**: A d_a = d_b. Then x + t d obeys every law of points up to order t, so each linear
  law gives one more by its derivative along d. For x_b^T F x_a = 0 that is
  (F x_a).d_b + (F^T x_b).d_a = 0, the constraint of Barath and Kukelova, "Relative pose from SIFT
  features" (ECCV 2022, eq. of their linear solver, divided by cos angle_b);
* **frames**: A is a rotation and a scaling, so d rotated by 90 degrees goes along too, as
  for the points that Perdoch, Matas and Chum (ICPR 2006) lay around a feature;
* **angle alone**: A d_a is *along* d_b. For F there is no equation in that (see below), only the
  sign: (F x_a).d_b and (F^T x_b).d_a are opposite; for H it is one linear equation.

What is exact: the oriented row holds for F where the ratio of scales is the stretch along the
angle. Where it is the square root of the change of area, as for isotropic detectors on a slanted
plane, no equation in F exists at all: A has four numbers, angle and area fix two, and the two
equations that A gives F (A^T (F x_a) + (F^T x_b) = 0 in the first two coordinates) determine the
other two. The row is then an approximation, exact for surfaces seen without change of shape. H is
different: det A = det H / (h_3.x_a)^3, so the area is one exact equation of degree three.
"""

import numpy as np
from jaxtyping import Bool, Float64

from evaluation.relative_pose.correspondences import Correspondences, Matrix, Points

Rows = Float64[np.ndarray, "*batch correspondence 9"]
Matrices = Float64[np.ndarray, "*batch 3 3"]


def homogeneous(xy: Points) -> Float64[np.ndarray, "*batch correspondence 3"]:
    """Return points with a last coordinate of 1."""
    return np.concatenate([xy, np.ones((*xy.shape[:-1], 1))], axis=-1)


def epipolar_rows(c: Correspondences) -> Rows:
    """Coefficients of x_b^T F x_a = 0 for F in row order."""
    return _outer(homogeneous(c.xy_b), homogeneous(c.xy_a))


def oriented_rows(c: Correspondences) -> Rows:
    """Coefficients of (F x_a).d_b + (F^T x_b).d_a = 0 for F in row order."""
    return _along(c, c.orientation_a, c.orientation_b)


def frame_rows(c: Correspondences) -> Rows:
    """The same for d rotated by 90 degrees: holds where the surface only rotates and scales."""
    return _along(c, rotated(c.orientation_a), rotated(c.orientation_b))


def has_right_signs(
    fundamental: Float64[np.ndarray, "model 3 3"], c: Correspondences, tolerance_deg: float = 0.0
) -> Bool[np.ndarray, "model correspondence"]:
    """Say whether angles lie on matching sides of the epipolar lines: exact, whatever the scales.

    Args:
        fundamental: x_b^T F x_a = 0 in the frame of ``c``; either sign.
        c: one set for all models (correspondence, 2), or one for each (model, correspondence, 2).
        tolerance_deg: angles nearer than that to an epipolar line pass, as their noise decides.
    """
    line_b = homogeneous(c.xy_a) @ np.swapaxes(fundamental, -1, -2)[..., :2]
    line_a = homogeneous(c.xy_b) @ fundamental[..., :2]
    sines = [
        (line * vector).sum(-1) / np.maximum(_length(line) * _length(vector), 1e-300)
        for line, vector in ((line_a, c.orientation_a), (line_b, c.orientation_b))
    ]
    is_near = np.minimum(abs(sines[0]), abs(sines[1])) <= np.sin(np.radians(tolerance_deg))
    passes: Bool[np.ndarray, "model correspondence"] = is_near | (sines[0] * sines[1] < 0)
    return passes


def oriented_residual(
    fundamental: Matrix, c: Correspondences
) -> Float64[np.ndarray, " correspondence"]:
    """Sine-like residual of the oriented constraint, in [-1, 1]; 0 where it holds."""
    line_b = homogeneous(c.xy_a) @ fundamental.T[:, :2]
    line_a = homogeneous(c.xy_b) @ fundamental[:, :2]
    part_b, part_a = (line_b * c.orientation_b).sum(-1), (line_a * c.orientation_a).sum(-1)
    size = _length(line_b) * _length(c.orientation_b) + _length(line_a) * _length(c.orientation_a)
    residual: Float64[np.ndarray, " correspondence"] = (part_b + part_a) / np.maximum(size, 1e-300)
    return residual


def homography_rows(c: Correspondences) -> Float64[np.ndarray, "*batch correspondence 2 9"]:
    """Coefficients of x_b ~ H x_a, without scale: two rows for H in row order."""
    return _projected(c.xy_b, homogeneous(c.xy_a))


def homography_vector_rows(c: Correspondences) -> Float64[np.ndarray, "*batch correspondence 2 9"]:
    """Coefficients of A d_a = d_b, the derivative of ``x_b ~ H x_a`` along d_a: two rows."""
    rows = _projected(c.xy_b, _direction(c.orientation_a))
    rows[..., 6:] -= c.orientation_b[..., None] * homogeneous(c.xy_a)[..., None, :]
    return rows


def homography_angle_rows(c: Correspondences) -> Rows:
    """Coefficients of A d_a parallel to d_b: what the angles alone say, exact for every plane."""
    rows = homography_vector_rows(c)
    normal = rotated(c.orientation_b)
    normal = normal / np.maximum(_length(c.orientation_b), 1e-300)[..., None]
    projected: Rows = (normal[..., None] * rows).sum(-2)
    return projected


def rotated(vector: Points) -> Points:
    """Vectors rotated by 90 degrees, +x to +y."""
    return np.stack([-vector[..., 1], vector[..., 0]], axis=-1)


def _along(c: Correspondences, orientation_a: Points, orientation_b: Points) -> Rows:
    at_b = _outer(_direction(orientation_b), homogeneous(c.xy_a))
    rows: Rows = at_b + _outer(homogeneous(c.xy_b), _direction(orientation_a))
    return rows


def _direction(vector: Points) -> Float64[np.ndarray, "*batch correspondence 3"]:
    return np.concatenate([vector, np.zeros((*vector.shape[:-1], 1))], axis=-1)


def _outer(left: np.ndarray, right: np.ndarray) -> Rows:
    product: Rows = (left[..., :, None] * right[..., None, :]).reshape(*left.shape[:-1], 9)
    return product


def _projected(xy_b: Points, vector: np.ndarray) -> np.ndarray:
    """Return rows of (first two of H v) - xy_b (third of H v)."""
    rows = np.zeros((*xy_b.shape, 9))
    rows[..., 0, 0:3] = vector
    rows[..., 1, 3:6] = vector
    rows[..., 6:] = -xy_b[..., None] * vector[..., None, :]
    return rows


def _length(vector: np.ndarray) -> np.ndarray:
    length: np.ndarray = np.sqrt((vector * vector).sum(-1))
    return length
