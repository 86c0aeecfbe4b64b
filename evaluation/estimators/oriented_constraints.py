"""What a correspondence with angle and scale says about F, E and H, as rows of linear equations.

A feature is a point x and a step d: the direction of its angle, as long as its scale. Steps go with
the first-order map A of the surface around the point; the three uses of that are

* **oriented**: A d_a = d_b. Then x + t d obeys every law of points up to order t, so each linear
  law gives one more by its derivative along d. For x_b^T F x_a = 0 that is
  (F x_a).d_b + (F^T x_b).d_a = 0, the constraint of Barath and Kukelova, "Relative pose from SIFT
  features" (ECCV 2022, eq. of their linear solver, divided by cos angle_b);
* **frames**: A is a turn and a scaling, so the step turned by 90 degrees goes along as well, as
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

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool, Float64

from rekd_hloc.types import Features, Matches

Points = Float64[np.ndarray, "*batch correspondence 2"]
Rows = Float64[np.ndarray, "*batch correspondence 9"]
Matrix = Float64[np.ndarray, "3 3"]
Matrices = Float64[np.ndarray, "*batch 3 3"]


@dataclass(frozen=True, eq=False)
class Correspondences:
    """Matched features of images a and b; leading axes are batches of samples.

    Attributes:
        xy_a: positions in image a, in pixels or in any frame of :meth:`moved`.
        xy_b: positions in image b.
        step_a: direction of the angle, as long as the scale, in the unit of ``xy_a``.
        step_b: likewise in image b. The unit of scale is free, as only ratios b : a matter.
    """

    xy_a: Points
    xy_b: Points
    step_a: Points
    step_b: Points

    def __post_init__(self) -> None:
        shapes = [part.shape for part in (self.xy_a, self.xy_b, self.step_a, self.step_b)]
        if len(set(shapes)) > 1 or len(shapes[0]) < 2 or shapes[0][-1] != 2:
            raise ValueError(f"points and steps must share a shape (..., match, 2), got {shapes}")

    def __len__(self) -> int:
        return int(self.xy_a.shape[-2])

    def __getitem__(self, index: np.ndarray) -> Self:
        """Chosen correspondences; an index of shape (sample, size) makes a batch of samples."""
        parts = (part[index] for part in (self.xy_a, self.xy_b, self.step_a, self.step_b))
        return type(self)(*parts)

    def tobytes(self) -> bytes:
        """All numbers, for a hash."""
        parts = (self.xy_a, self.xy_b, self.step_a, self.step_b)
        return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)

    def moved(self, new_from_a: Matrix, new_from_b: Matrix) -> Self:
        """The same in other frames, by affine 3x3 maps (last row 0, 0, 1)."""
        return type(self)(
            self.xy_a @ new_from_a[:2, :2].T + new_from_a[:2, 2],
            self.xy_b @ new_from_b[:2, :2].T + new_from_b[:2, 2],
            self.step_a @ new_from_a[:2, :2].T,
            self.step_b @ new_from_b[:2, :2].T,
        )


def make_correspondences(
    xy_a: Float64[np.ndarray, "match 2"],
    xy_b: Float64[np.ndarray, "match 2"],
    angle_a: Float64[np.ndarray, " match"],
    angle_b: Float64[np.ndarray, " match"],
    scale_a: Float64[np.ndarray, " match"] | None = None,
    scale_b: Float64[np.ndarray, " match"] | None = None,
) -> Correspondences:
    """From positions in pixels, angles in radians (+x towards +y) and scales of any common unit.

    Raises:
        ValueError: lengths differ, or a value is not finite, or a scale is not positive.
    """
    scales = [np.ones(len(xy_a)) if s is None else s for s in (scale_a, scale_b)]
    for name, part in zip(("scale_a", "scale_b"), scales, strict=True):
        if not (np.asarray(part) > 0).all():
            raise ValueError(f"{name} must be positive; leave both out if scales are unknown")
    parts = []
    for angle, scale in zip((angle_a, angle_b), scales, strict=True):
        if np.shape(angle) != np.shape(scale) or len(angle) != len(xy_a):
            raise ValueError(f"{len(xy_a)} matches need as many angles and scales")
        turn = np.asarray(angle, np.float64)
        parts.append(np.stack([np.cos(turn), np.sin(turn)], -1) * np.asarray(scale)[:, None])
    arrays = [np.asarray(part, dtype=np.float64) for part in (xy_a, xy_b, *parts)]
    if not all(np.isfinite(part).all() for part in arrays):
        raise ValueError("positions, angles and scales must be finite; remove the others first")
    return Correspondences(*arrays)


def correspondences_of(
    features_a: Features, features_b: Features, matches: Matches
) -> Correspondences:
    """The matched keypoints of two images, in pixels."""
    index_a, index_b = matches.index.T
    a, b = features_a.keypoints[index_a].to("cpu"), features_b.keypoints[index_b].to("cpu")
    parts = (a.xy, b.xy, a.angle, b.angle, a.scale, b.scale)
    return make_correspondences(*(part.double().numpy() for part in parts))


def homogeneous(xy: Points) -> Float64[np.ndarray, "*batch correspondence 3"]:
    """Points with a last coordinate of 1."""
    return np.concatenate([xy, np.ones((*xy.shape[:-1], 1))], axis=-1)


def epipolar_rows(c: Correspondences) -> Rows:
    """Coefficients of x_b^T F x_a = 0 for F in row order."""
    return _outer(homogeneous(c.xy_b), homogeneous(c.xy_a))


def oriented_rows(c: Correspondences) -> Rows:
    """Coefficients of (F x_a).d_b + (F^T x_b).d_a = 0 for F in row order."""
    return _along(c, c.step_a, c.step_b)


def frame_rows(c: Correspondences) -> Rows:
    """The same for steps turned by 90 degrees: holds where the surface only turns and scales."""
    return _along(c, turned(c.step_a), turned(c.step_b))


def has_right_signs(
    fundamental: Float64[np.ndarray, "model 3 3"],
    c: Correspondences,
    tolerance_deg: float = 0.0,
) -> Bool[np.ndarray, "model correspondence"]:
    """Whether angles lie on matching sides of the epipolar lines: exact, whatever the scales.

    Args:
        fundamental: x_b^T F x_a = 0 in the frame of ``c``; either sign.
        c: one set for all models (correspondence, 2), or one for each (model, correspondence, 2).
        tolerance_deg: angles nearer than that to an epipolar line pass, as their noise decides.
    """
    line_b = homogeneous(c.xy_a) @ np.swapaxes(fundamental, -1, -2)[..., :2]
    line_a = homogeneous(c.xy_b) @ fundamental[..., :2]
    sines = [
        (line * step).sum(-1) / np.maximum(_length(line) * _length(step), 1e-300)
        for line, step in ((line_a, c.step_a), (line_b, c.step_b))
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
    part_b, part_a = (line_b * c.step_b).sum(-1), (line_a * c.step_a).sum(-1)
    size = _length(line_b) * _length(c.step_b) + _length(line_a) * _length(c.step_a)
    residual: Float64[np.ndarray, " correspondence"] = (part_b + part_a) / np.maximum(size, 1e-300)
    return residual


def homography_rows(c: Correspondences) -> Float64[np.ndarray, "*batch correspondence 2 9"]:
    """Coefficients of x_b ~ H x_a, without scale: two rows for H in row order."""
    return _projected(c.xy_b, homogeneous(c.xy_a))


def homography_step_rows(c: Correspondences) -> Float64[np.ndarray, "*batch correspondence 2 9"]:
    """Coefficients of A d_a = d_b, the derivative of ``x_b ~ H x_a`` along the steps: two rows."""
    rows = _projected(c.xy_b, _direction(c.step_a))
    rows[..., 6:] -= c.step_b[..., None] * homogeneous(c.xy_a)[..., None, :]
    return rows


def homography_angle_rows(c: Correspondences) -> Rows:
    """Coefficients of A d_a parallel to d_b: what the angles alone say, exact for every plane."""
    rows = homography_step_rows(c)
    normal = turned(c.step_b)
    normal = normal / np.maximum(_length(c.step_b), 1e-300)[..., None]
    projected: Rows = (normal[..., None] * rows).sum(-2)
    return projected


def turned(step: Points) -> Points:
    """Steps turned by 90 degrees, +x to +y."""
    return np.stack([-step[..., 1], step[..., 0]], axis=-1)


def _along(c: Correspondences, step_a: Points, step_b: Points) -> Rows:
    at_b = _outer(_direction(step_b), homogeneous(c.xy_a))
    rows: Rows = at_b + _outer(homogeneous(c.xy_b), _direction(step_a))
    return rows


def _direction(step: Points) -> Float64[np.ndarray, "*batch correspondence 3"]:
    return np.concatenate([step, np.zeros((*step.shape[:-1], 1))], axis=-1)


def _outer(left: np.ndarray, right: np.ndarray) -> Rows:
    product: Rows = (left[..., :, None] * right[..., None, :]).reshape(*left.shape[:-1], 9)
    return product


def _projected(xy_b: Points, vector: np.ndarray) -> np.ndarray:
    """Rows of (first two of H v) - xy_b (third of H v)."""
    rows = np.zeros((*xy_b.shape, 9))
    rows[..., 0, 0:3] = vector
    rows[..., 1, 3:6] = vector
    rows[..., 6:] = -xy_b[..., None] * vector[..., None, :]
    return rows


def _length(vector: np.ndarray) -> np.ndarray:
    length: np.ndarray = np.sqrt((vector * vector).sum(-1))
    return length
