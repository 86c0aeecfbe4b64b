"""Matched features of two images: positions, and a step along each one's angle."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float64

from rekd_hloc.types import Features, Matches

Points = Float64[np.ndarray, "*batch correspondence 2"]
Matrix = Float64[np.ndarray, "3 3"]


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
