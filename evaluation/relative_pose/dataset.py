"""Image pairs with true relative poses: what every pose evaluation measures on.

IMC scenes, COLMAP models and lists of pairs all become a :class:`PairSet`.
"""

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Float64

from evaluation.metrics.pose import relative_pose
from evaluation.relative_pose.cameras import Camera
from rekd_hloc.types import Pair

Matrix = Float64[np.ndarray, "3 3"]


@dataclass(frozen=True, eq=False)
class PosePair:
    """Two images, their intrinsics, and the true ``x_b = rotation @ x_a + translation``.

    Attributes:
        a: name of the first image.
        b: name of the second image.
        K_a: intrinsics of image a in pixels; (0, 0) is the centre of the first pixel.
        K_b: intrinsics of image b.
        rotation: from the frame of camera a to that of camera b.
        translation: likewise, of any length.
    """

    a: str
    b: str
    K_a: Matrix
    K_b: Matrix
    rotation: Matrix
    translation: Float64[np.ndarray, " 3"]

    @classmethod
    def from_cameras(cls, pair: Pair, cameras: Mapping[str, Camera]) -> Self:
        """The pair of two calibrated images."""
        a, b = (cameras[name] for name in pair)
        rotation, translation = relative_pose(a.R, a.T, b.R, b.T)
        return cls(pair[0], pair[1], a.K, b.K, rotation, translation)

    @property
    def names(self) -> Pair:
        """Both images."""
        return self.a, self.b

    @property
    def is_for_tuning(self) -> bool:
        """Whether settings may be chosen on it; a coin tossed by the names, whatever their order.

        Figures of chosen settings are reported on the other pairs.
        """
        text = "\n".join(sorted(self.names))
        return hashlib.sha256(text.encode()).digest()[0] % 2 == 0

    def digest(self) -> str:
        """Changes with the names, the intrinsics and the true pose."""
        arrays = (self.K_a, self.K_b, self.rotation, self.translation)
        data = b"".join(np.round(array, 9).astype(np.float64).tobytes() for array in arrays)
        return hashlib.sha256("\n".join(self.names).encode() + data).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class PairSet:
    """Pairs of one scene and the files of their images.

    Attributes:
        key: of the scene, such as ``phototourism/reichstag``.
        images: path of each image by its name.
        pairs: to estimate the poses of.
        masks: of images that are valid in part only, 255 where they are.
    """

    key: str
    images: Mapping[str, Path]
    pairs: Sequence[PosePair]
    masks: Mapping[str, Path] = field(default_factory=dict)

    def limit(self, count: int | None) -> Self:
        """So many pairs at most, the same ones for the same names; all for None."""
        if count is None or count >= len(self.pairs):
            return self
        chosen = sorted(self.pairs, key=lambda p: hashlib.sha256(repr(p.names).encode()).digest())
        return replace(self, pairs=chosen[:count])

    def used_images(self, more: Iterable[str] = ()) -> dict[str, Path]:
        """The images of the pairs, and others by name."""
        wanted = {name for pair in self.pairs for name in pair.names} | set(more)
        return {name: path for name, path in self.images.items() if name in wanted}


def all_pairs(names: Iterable[str]) -> list[Pair]:
    """Every pair of images; as officially, the name that sorts last comes first."""
    return [(b, a) for a, b in itertools.combinations(sorted(names), 2)]
