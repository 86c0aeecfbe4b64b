"""How features and matches become a model."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rekd_hloc.config import MAX_ERROR_PX, REFINED_MAX_ERROR_PX
from rekd_hloc.sfm.cameras import CameraOptions
from rekd_hloc.sfm.mapping import check_mapper
from rekd_hloc.sfm.refinement_sources import is_refined
from rekd_hloc.sfm.verification import check_seed


@dataclass(frozen=True)
class MappingOptions(CameraOptions):
    """How features and matches become a model; the options of cameras are among them.

    Attributes:
        mapper: ``incremental`` or ``global``.
        seed: of verification and mapping.
        num_threads: of the mapper; 1 is repeatable to the bit, -1 takes all cores.
        quantise_descriptors: also write descriptors that COLMAP's own matchers can use.
        max_error_px: largest epipolar error of a verified match; None takes ``MAX_ERROR_PX``, and
            ``REFINED_MAX_ERROR_PX`` for keypoints that were refined. Of those it is also the
            largest reprojection error in the model.

    Raises:
        ValueError: an option that COLMAP does not know or cannot take.
    """

    mapper: str = "incremental"
    seed: int = 0
    num_threads: int = 1
    quantise_descriptors: bool = False
    max_error_px: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_mapper(self.mapper)
        check_seed(self.seed)
        if self.max_error_px is not None and not 0 < self.max_error_px < math.inf:
            raise ValueError(f"max_error_px must be above 0, got {self.max_error_px}")

    def to_json(self) -> dict[str, Any]:
        """Return the options for a report; a threshold that was not given is none of them."""
        return {k: v for k, v in asdict(self).items() if (k, v) != ("max_error_px", None)}

    def reprojection_px(self, provenance: Mapping[str, str]) -> float | None:
        """Return the largest reprojection error of a point, of features that record this; None is
        COLMAP's own."""
        return self.threshold_px(provenance) if is_refined(provenance) else None

    def threshold_px(self, provenance: Mapping[str, str]) -> float:
        """Return the largest error of a verified match, of features that record this."""
        default = REFINED_MAX_ERROR_PX if is_refined(provenance) else MAX_ERROR_PX
        return default if self.max_error_px is None else self.max_error_px
