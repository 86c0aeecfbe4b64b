"""Refined positions of matches by image pair, in a file that is written as files of matches are."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import NDArray

from evaluation.relative_pose.correspondences import Correspondences
from evaluation.relative_pose.two_view import Points
from rekd_hloc.storage.journal import Record
from rekd_hloc.storage.names import pair_group
from rekd_hloc.storage.store import Store

ARRAYS = ("xy_b", "scale_b", "shift_px", "is_near", "is_refined")


@dataclass(frozen=True, eq=False)
class RefinedPair:
    """What became of the matches of one pair, in their order.

    Attributes:
        xy_b: positions in image b, in pixels; those of image a stay.
        scale_b: of the keypoints in b, in units of the image's own pyramid level.
        shift_px: distance from the keypoint of b; 0 where not refined.
        is_near: whether the loose geometry agrees, so that the match was tried.
        is_refined: whether refinement succeeded.
    """

    xy_b: Points
    scale_b: Float64[np.ndarray, " match"]
    shift_px: Float64[np.ndarray, " match"]
    is_near: Bool[np.ndarray, " match"]
    is_refined: Bool[np.ndarray, " match"]

    def apply(self, matched: Correspondences) -> Correspondences:
        """Return the matches with refined positions in image b."""
        return replace(matched, xy_b=self.xy_b)


class RefinedStore(Store):
    """Refined positions by image pair, in a file that is written as files of matches are."""

    MARKER = "xy_b"

    @classmethod
    def resume(cls, path: Path, provenance: Mapping[str, str]) -> Self:
        """Open to write: a new file, or an old one to go on with."""
        return cls._resume(path, provenance, overwrite=False)

    def __contains__(self, pair: object) -> bool:
        return isinstance(pair, tuple) and self.MARKER in self._file.datasets(pair_group(*pair))

    def read(self, a: str, b: str) -> RefinedPair:
        """Return the matches of a pair, in the order in which it was written.

        Raises:
            ValueError: the pair is not in the file.
        """
        record = self._file.read(pair_group(a, b), ARRAYS)
        if record is None:
            raise ValueError(f"{self.path} has no refined matches of ({a!r}, {b!r})")
        arrays = {name: record.arrays[name] for name in ARRAYS}
        arrays |= {name: arrays[name].astype(bool) for name in ("is_near", "is_refined")}
        return RefinedPair(**arrays)

    def write(self, a: str, b: str, refined: RefinedPair) -> None:
        """Add a pair."""
        arrays: dict[str, NDArray[Any]] = {name: getattr(refined, name) for name in ARRAYS}
        arrays |= {name: arrays[name].astype(np.uint8) for name in ARRAYS if name[:2] == "is"}
        self._file.append(Record(pair_group(a, b), arrays))
