"""From a folder of photographs, or from files of features and matches, to a COLMAP model.

Every stage leaves its result in the output folder and goes on from what it finds there.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rekd_hloc.config import (
    RECONSTRUCTION_MATCHING,
    ExtractConfig,
    MatchConfig,
    config_hash,
    reconstruction_preset,
)
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.matching.pairs import SEQUENTIAL, make_pairs, write_pairs
from rekd_hloc.sfm.database import remove_database
from rekd_hloc.sfm.extraction import ImageExtractor, extract_images
from rekd_hloc.sfm.image_folder import find_images
from rekd_hloc.sfm.stages import MappingOptions, Run, build_model
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.storage.provenance import stored_config
from rekd_hloc.types import Pair

logger = logging.getLogger(__name__)


def reconstruct(
    image_dir: Path,
    output: Path,
    *,
    conf: str = "rekd",
    config: ExtractConfig | None = None,
    matching: MatchConfig = RECONSTRUCTION_MATCHING,
    pairs: str | Path = "exhaustive",
    overlap: int = 10,
    mask_dir: Path | None = None,
    mapper: str = "incremental",
    camera_model: str = "SIMPLE_RADIAL",
    camera_mode: str = "auto",
    intrinsics: Sequence[float] | None = None,
    reference: Path | None = None,
    device: str = "auto",
    seed: int = 0,
    num_threads: int = 1,
    quantise_descriptors: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    extractor: ImageExtractor | None = None,
) -> dict[str, Any]:
    """Reconstruct a scene; writes ``features.h5``, ``matches.h5``, ``pairs.txt``, ``database.db``,
    the models ``sparse/0``, ``sparse/1``, ... (largest first) and ``report.json`` into ``output``.

    An image or mask that cannot be used is skipped, with the reason in the report. A scene that
    gives no model is no error: ``num_registered`` is 0 and ``diagnosis`` says what to do.

    Args:
        image_dir: photos, searched with subfolders; ``output`` and ``mask_dir`` may lie in it.
        output: folder to write, or to go on with.
        conf: preset of the extractor.
        config: options in place of the preset's own, of which the budget is
            ``RECONSTRUCTION_KEYPOINTS``.
        matching: neighbours, ratio test and orientation filter.
        pairs: ``exhaustive``, ``sequential``, or a file with the names of a pair on each line.
        overlap: neighbours of an image in sequential pairs.
        mask_dir: masks as COLMAP's, zero where to ignore.
        mapper: ``incremental`` or ``global``.
        camera_model: COLMAP's name of it.
        camera_mode: ``auto``, ``single``, ``per_folder`` or ``per_image``.
        intrinsics: known parameters of the camera model; they are kept as they are.
        reference: true poses to compare with: a COLMAP model, or IMC ``calibration_*.h5`` files.
        device: of extraction and matching.
        seed: of verification and mapping.
        num_threads: of the mapper; 1 is repeatable to the bit, -1 takes all cores.
        quantise_descriptors: also write descriptors that COLMAP's own matchers can use.
        overwrite: start anew instead of going on with what is in ``output``.
        progress: show bars on stderr.
        extractor: to use in place of the one that ``conf`` and ``config`` name.

    Returns:
        What is in ``report.json``.

    Raises:
        ValueError: an option out of range, a folder without images, or files in ``output`` that
            were made with other options.
        FileNotFoundError: a folder or file that is named does not exist.
        OSError: ``output`` cannot be written, or the disk is full; what is finished is kept.
    """
    options = MappingOptions(
        mapper, camera_model, camera_mode, intrinsics, seed, num_threads, quantise_descriptors
    )
    found = find_images(image_dir, mask_dir=mask_dir, output=output)
    listed = make_pairs(found, pairs, overlap=overlap)
    run = Run.start(image_dir, output, options, reference, progress)
    features_path, matches_path = output / "features.h5", output / "matches.h5"
    with run.watch.stage("extract"):
        extractor = extractor or _load_extractor(conf, device, config)
        summary = extract_images(
            extractor,
            image_dir,
            features_path,
            names=found,
            mask_dir=mask_dir,
            overwrite=overwrite,
            progress=progress,
        )
    usable = set(summary.names)
    if pairs == SEQUENTIAL:
        listed = make_pairs(summary.names, pairs, overlap=overlap)
    listed = [pair for pair in listed if usable.issuperset(pair)]
    _write_pairs(output / "pairs.txt", listed)
    with run.watch.stage("match"):
        match_images(
            features_path,
            matches_path,
            listed,
            matching,
            overwrite=overwrite,
            device=_torch_device(device),
            progress=progress,
        )
    if overwrite:
        remove_database(output / "database.db")
    configuration = {
        "preset": extractor.provenance.get("preset"),
        "extraction": stored_config(extractor.provenance),
        "extraction_hash": extractor.provenance.get("config_hash"),
        "masks": str(mask_dir) if mask_dir else None,
        "matching": asdict(matching),
        "matching_hash": config_hash(matching),
        "pairs": str(pairs),
        "overlap": overlap,
    }
    return build_model(
        run,
        features_path,
        matches_path,
        listed,
        summary.num_keypoints,
        summary.skipped,
        configuration,
    )


def reconstruct_from_files(
    features: Path,
    matches: Path,
    pairs: Path | None,
    image_dir: Path,
    output: Path,
    *,
    options: MappingOptions = MappingOptions(),  # noqa: B008  (frozen)
    reference: Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Reconstruct from hloc's files of any extractor and matcher; they are read, never changed.

    Args:
        features: HDF5 file; all its images take part. Its scales are taken for sigmas unless this
            package wrote it.
        matches: HDF5 file that has all of ``pairs``.
        pairs: file of image pairs; all pairs in ``matches`` when None.
        image_dir: where COLMAP reads cameras and colours; images need not be there.
        output: folder for ``database.db``, ``sparse`` and ``report.json``.
        options: how to map.
        reference: true poses to compare with.
        progress: show bars on stderr.

    Returns:
        What is in ``report.json``.

    Raises:
        ValueError, FileNotFoundError, OSError: as :func:`reconstruct`.
    """
    with FeatureStore(features) as store:
        counts = {name: len(store.read(name)) for name in store.names()}
        provenance = store.provenance
    if not counts:
        raise ValueError(f"{features} holds features of no image")
    if pairs is None:
        with MatchStore(matches) as found:
            listed = found.pairs(counts)
    else:
        listed = make_pairs(list(counts), pairs)
    run = Run.start(image_dir, output, options, reference, progress)
    _write_pairs(output / "pairs.txt", listed)
    configuration = {
        "preset": provenance.get("preset"),
        "extraction": stored_config(provenance),
        "extraction_hash": provenance.get("config_hash"),
        "features": str(features),
        "matches": str(matches),
        "pairs": str(pairs) if pairs else None,
    }
    return build_model(run, features, matches, listed, counts, {}, configuration)


def _write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """A by-product: a name that a pairs file cannot hold must not end the run."""
    try:
        write_pairs(path, pairs)
    except ValueError as error:
        path.unlink(missing_ok=True)
        logger.warning("%s is not written: %s", path, error)


def _load_extractor(conf: str, device: str, config: ExtractConfig | None) -> ImageExtractor:
    from rekd_hloc.features.extractor import Extractor

    config = config or reconstruction_preset(conf)
    return Extractor.from_pretrained(conf, device=device, config=config)


def _torch_device(name: str) -> str:
    from rekd_hloc.features.extractor import choose_device

    return str(choose_device(name))
