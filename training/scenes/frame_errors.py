"""By how much a detected keypoint differs from where its partner in another photo puts it.

A descriptor must bear these errors of position, scale and angle. They are measured on keypoints
that lie at one place, and put on places where a photo has none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64

from rekd_hloc.geometry import TWO_PI
from rekd_hloc.types import Keypoints

POSITION_ERROR = 0.7
"""Standard deviation along either axis of a keypoint about the place of its partner, in units of
its scale, where too few are joined to measure it."""
SCALE_ERROR = 0.15
"""The same of the logarithm of its scale."""
ANGLE_ERROR = 0.12
"""The same of its angle, radians."""
MIN_MEASURED = 200
"""Fewest joined keypoints whose errors are taken for those of all."""


@dataclass(frozen=True, eq=False)
class FrameErrors:
    """By how much keypoints differ from where their partners lie; rows are joined pairs.

    Attributes:
        offset: of the position, in units of the scale, along the keypoint's angle and across.
        log_scale: natural logarithm of the ratio of scales.
        angle: in radians, -pi to pi.
    """

    offset: Float64[np.ndarray, "pair 2"]
    log_scale: Float64[np.ndarray, " pair"]
    angle: Float64[np.ndarray, " pair"]

    @classmethod
    def measure(cls, expected: Keypoints, found: Keypoints) -> "FrameErrors":
        """Compare keypoints, row by row, with where they were expected."""
        move = (found.xy - expected.xy).double().numpy() / expected.scale.double().numpy()[:, None]
        angle = expected.angle.double().numpy()
        cos, sin = np.cos(angle), np.sin(angle)
        turned = (found.angle - expected.angle).double().numpy()
        return cls(
            offset=np.column_stack([
                cos * move[:, 0] + sin * move[:, 1], cos * move[:, 1] - sin * move[:, 0]
            ]),
            log_scale=np.log((found.scale / expected.scale).double().numpy()),
            angle=(turned + np.pi) % TWO_PI - np.pi,
        )  # fmt: skip

    @classmethod
    def join(cls, parts: Sequence["FrameErrors"]) -> "FrameErrors":
        """Return the rows of all parts."""
        return cls(
            np.concatenate([np.zeros((0, 2)), *(part.offset for part in parts)]),
            np.concatenate([np.zeros(0), *(part.log_scale for part in parts)]),
            np.concatenate([np.zeros(0), *(part.angle for part in parts)]),
        )

    def __len__(self) -> int:
        """Return number of joined pairs."""
        return len(self.angle)

    def spread(self) -> tuple[float, float, float]:
        """Return root mean squares: of the offset along either axis, log of scale, and angle."""
        if len(self) == 0:
            return 0.0, 0.0, 0.0
        values = (self.offset, self.log_scale, self.angle)
        offset, log_scale, angle = (float(np.sqrt((v**2).mean())) for v in values)
        return offset, log_scale, angle

    def draw(self, rng: np.random.Generator, count: int) -> "FrameErrors":
        """Draw errors among those measured; from a normal distribution if they are too few."""
        if len(self) >= MIN_MEASURED:
            rows = rng.integers(len(self), size=count)
            return FrameErrors(self.offset[rows], self.log_scale[rows], self.angle[rows])
        noise = rng.normal(size=(count, 4))
        return FrameErrors(
            POSITION_ERROR * noise[:, :2], SCALE_ERROR * noise[:, 2], ANGLE_ERROR * noise[:, 3]
        )

    def apply(self, keypoints: Keypoints) -> Keypoints:
        """Return keypoints with these errors, row by row."""
        angle, scale = (v.double().numpy() for v in (keypoints.angle, keypoints.scale))
        cos, sin = np.cos(angle), np.sin(angle)
        along, across = self.offset.T
        move = np.column_stack([cos * along - sin * across, sin * along + cos * across])
        xy = keypoints.xy.double().numpy() + move * scale[:, None]
        return replace(
            keypoints,
            xy=torch.from_numpy(xy).float(),
            scale=torch.from_numpy(scale * np.exp(self.log_scale)).float(),
            angle=torch.from_numpy((angle + self.angle) % TWO_PI).float(),
        )
