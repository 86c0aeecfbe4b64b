"""Matched features of two images: positions and orientation vectors."""

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
        orientation_a: direction of the angle, as long as the scale, in the unit of ``xy_a``.
        orientation_b: the same in image b. The unit of scale is free: only ratios b : a matter.
    """

    xy_a: Points
    xy_b: Points
    orientation_a: Points
    orientation_b: Points

    def __post_init__(self) -> None:
        shapes = [part.shape for part in self._parts]
        if len(set(shapes)) > 1 or len(shapes[0]) < 2 or shapes[0][-1] != 2:
            raise ValueError(f"all parts must share a shape (..., match, 2), got {shapes}")

    def __len__(self) -> int:
        return int(self.xy_a.shape[-2])

    def __getitem__(self, index: np.ndarray) -> Self:
        """Select correspondences; an index of shape (sample, size) makes a batch of samples."""
        return type(self)(*(part[index] for part in self._parts))

    def tobytes(self) -> bytes:
        """Return all numbers, for a hash."""
        return b"".join(np.ascontiguousarray(part).tobytes() for part in self._parts)

    @property
    def _parts(self) -> tuple[Points, Points, Points, Points]:
        return self.xy_a, self.xy_b, self.orientation_a, self.orientation_b

    def moved(self, new_from_a: Matrix, new_from_b: Matrix) -> Self:
        """Return the same in other frames, by affine 3x3 maps (last row 0, 0, 1)."""
        return type(self)(
            self.xy_a @ new_from_a[:2, :2].T + new_from_a[:2, 2],
            self.xy_b @ new_from_b[:2, :2].T + new_from_b[:2, 2],
            self.orientation_a @ new_from_a[:2, :2].T,
            self.orientation_b @ new_from_b[:2, :2].T,
        )


def make_correspondences(
    xy_a: Float64[np.ndarray, "match 2"],
    xy_b: Float64[np.ndarray, "match 2"],
    angle_a: Float64[np.ndarray, " match"],
    angle_b: Float64[np.ndarray, " match"],
    scale_a: Float64[np.ndarray, " match"] | None = None,
    scale_b: Float64[np.ndarray, " match"] | None = None,
) -> Correspondences:
    """Make correspondences of positions, angles and scales.

    Positions are in pixels, angles in radians clockwise in image coordinates, scales of any unit.

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
        exact = np.asarray(angle, np.float64)
        parts.append(np.stack([np.cos(exact), np.sin(exact)], -1) * np.asarray(scale)[:, None])
    arrays = [np.asarray(part, dtype=np.float64) for part in (xy_a, xy_b, *parts)]
    if not all(np.isfinite(part).all() for part in arrays):
        raise ValueError("positions, angles and scales must be finite; remove the others first")
    return Correspondences(*arrays)


def correspondences_of(
    features_a: Features, features_b: Features, matches: Matches
) -> Correspondences:
    """Return the matched keypoints of two images, in pixels."""
    index_a, index_b = matches.index.T
    a, b = features_a.keypoints[index_a].to("cpu"), features_b.keypoints[index_b].to("cpu")
    parts = (a.xy, b.xy, a.angle, b.angle, a.scale, b.scale)
    return make_correspondences(*(part.double().numpy() for part in parts))
