"""How a folder of images becomes a model, and how a report tells it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rekd_hloc.config import (
    OVERLAP,
    PAIRS,
    RECONSTRUCTION_MATCHING,
    ExtractConfig,
    MatchConfig,
    config_hash,
)
from rekd_hloc.sfm.mapping_options import MappingOptions
from rekd_hloc.sfm.mask_frames import AUTO, check_mask_frame
from rekd_hloc.storage.provenance import stored_config


@dataclass(frozen=True)
class ReconstructOptions(MappingOptions):
    """How a folder of images becomes a model; the options of mapping are among them.

    Attributes:
        conf: preset of the extractor, whose budget is ``RECONSTRUCTION_KEYPOINTS`` here, or a
            folder of ``Extractor.save_pretrained``, which keeps its own.
        config: options in place of the preset's own.
        matching: neighbours, ratio test and orientation filter.
        pairs: ``exhaustive``, ``sequential:10``, ``retrieval:30``, ``loops:30``, ``gps:30``,
            several with ``+`` between, ``auto`` (exhaustive up to 200 images, retrieval above), or
            a file with the names of a pair on each line.
        overlap: neighbours of an image in sequential pairs.
        codebook: name or file of the codebook, for retrieval.
        mask_dir: masks as COLMAP's, zero where to ignore.
        mask_frame: the pixel grid of masks whose images EXIF rotates: ``file``, ``upright``, or
            ``auto`` to decide by their sizes and EXIF.
        refine: align the keypoints of each verified track to one another before mapping.
        reference: true poses to compare with: a COLMAP model, or IMC ``calibration_*.h5`` files.
        device: of extraction and matching.
    """

    conf: str = "rekd"
    config: ExtractConfig | None = None
    matching: MatchConfig = RECONSTRUCTION_MATCHING
    pairs: str | Path = PAIRS
    overlap: int = OVERLAP
    codebook: str = "default"
    mask_dir: Path | None = None
    mask_frame: str = AUTO
    refine: bool = True
    reference: Path | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_mask_frame(self.mask_frame)

    @property
    def mapping(self) -> MappingOptions:
        """Return the options of mapping alone."""
        return MappingOptions(**{f.name: getattr(self, f.name) for f in fields(MappingOptions)})


DEFAULT_OPTIONS = ReconstructOptions()


def describe_options(options: ReconstructOptions, provenance: Mapping[str, str]) -> dict[str, Any]:
    """Return the options of the stages before mapping, for the report.

    Args:
        options: of the run.
        provenance: of the extractor.
    """
    return {
        "preset": provenance.get("preset"),
        "extraction": stored_config(provenance),
        "extraction_hash": provenance.get("config_hash"),
        "masks": str(options.mask_dir) if options.mask_dir else None,
        "mask_frame": options.mask_frame,
        "matching": asdict(options.matching),
        "matching_hash": config_hash(options.matching),
        "pairs": str(options.pairs),
        "overlap": options.overlap,
        **({} if options.codebook == "default" else {"codebook": options.codebook}),
        **({"refine": True} if options.refine else {}),  # as in reports from before it was there
    }
