"""A finished reconstruction on a place that cannot be written: with nothing to do, it is read."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rekd_hloc.image_listing import ImageListing
from rekd_hloc.json_text import read_json
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.sfm.database_sources import are_sources
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.sfm.image_work import ImageExtractor
from rekd_hloc.sfm.output_folder import (
    DATABASE_RECORD,
    FEATURES,
    MATCHES,
    MODEL,
    REFINED_FEATURES,
    REPORT,
    OutputFolder,
)
from rekd_hloc.sfm.refined_features import RefineOptions, refine_features
from rekd_hloc.types import Pair

if TYPE_CHECKING:
    from rekd_hloc.sfm.reconstruct_options import ReconstructOptions


def is_read_only(folder: Path) -> bool:
    """Say whether a folder is there and cannot be written."""
    return folder.is_dir() and not os.access(folder, os.W_OK)


def read_finished(
    image_dir: Path,
    output: Path,
    options: "ReconstructOptions",
    listing: ImageListing,
    pairs: Sequence[Pair],
    extractor: ImageExtractor,
    configuration: Mapping[str, Any],
) -> dict[str, Any] | None:
    """Return the report in a folder if a run of now would change nothing in it; else None.

    Where true poses are to be compared with, or images were skipped, there is something to do:
    these may be other ones today.

    Raises:
        ValueError: features or matches of other options.
        OSError: an image or pair is to be done, which cannot be written.
    """
    report = _read_report(output / REPORT)
    asked = {**configuration, "mapping": options.mapping.to_json()}
    is_same = report.get("configuration") == json.loads(json.dumps(asked))
    if not is_same or options.reference is not None or _skipped(report) != set(listing.unused):
        return None
    files = output / FEATURES, output / MATCHES
    used = output / REFINED_FEATURES if options.refine else files[0]
    if not are_sources(output / DATABASE_RECORD, (used, files[1]), listing.images, pairs):
        return None
    if report.get("num_registered") and MODEL not in OutputFolder(output).made:
        return None
    extract_images(
        extractor, image_dir, files[0], names=listing.images,
        mask_dir=options.mask_dir, mask_frame=options.mask_frame,
    )  # fmt: skip
    match_images(*files, pairs, options.matching, device=options.device)
    if options.refine:
        how = RefineOptions(options.cameras, options.seed)
        refine_features(*files, image_dir, used, pairs=pairs, options=how, device=options.device)
    return report


def _read_report(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _skipped(report: Mapping[str, Any]) -> set[str]:
    skipped = report.get("skipped")
    return set(skipped) if isinstance(skipped, dict) else set()
