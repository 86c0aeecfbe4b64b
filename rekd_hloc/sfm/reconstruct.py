"""From a folder of images, or from files of features and matches, to a COLMAP model.

Every stage leaves its result in the output folder and goes on from what it finds there.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rekd_hloc.features.pretrained_folder import read_for_reconstruction
from rekd_hloc.image_listing import ImageListing
from rekd_hloc.matching.match import make_matcher
from rekd_hloc.matching.match_images import MapPairs, match_images, matching_provenance
from rekd_hloc.matching.pairs import depends_on_others, format_pairs, make_pairs, settle_source
from rekd_hloc.sfm.cameras import plan_cameras
from rekd_hloc.sfm.chosen_pairs import choose_early, choose_pairs
from rekd_hloc.sfm.extraction import MapImages, extract_images
from rekd_hloc.sfm.finished_run import is_read_only, read_finished
from rekd_hloc.sfm.image_folder import check_still_there, find_images
from rekd_hloc.sfm.image_work import ImageExtractor
from rekd_hloc.sfm.output_folder import (
    FEATURES,
    MATCHES,
    NAMES,
    PAIRS,
    REFINED_FEATURES,
    OutputFolder,
)
from rekd_hloc.sfm.reconstruct_options import DEFAULT_OPTIONS, ReconstructOptions, describe_options
from rekd_hloc.sfm.refined_features import RefineOptions, refine_features
from rekd_hloc.sfm.refinement_sources import is_refined, refuse_unrefined, stored_provenance
from rekd_hloc.sfm.result import ReconstructionResult
from rekd_hloc.sfm.stages import MappingOptions, Run, build_model
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.storage.made_with import is_other, read_provenance
from rekd_hloc.storage.provenance import stored_config
from rekd_hloc.types import Pair

__all__ = ["ReconstructOptions", "reconstruct", "reconstruct_from_files"]

logger = logging.getLogger(__name__)


def reconstruct(
    image_dir: Path,
    output: Path,
    options: ReconstructOptions = DEFAULT_OPTIONS,
    *,
    overwrite: bool = False,
    progress: bool = False,
    extractor: ImageExtractor | None = None,
    map_images: MapImages = map,
    map_pairs: MapPairs = map,
    **changes: Any,
) -> ReconstructionResult:
    """Reconstruct a scene; writes ``features.h5``, ``matches.h5``, ``pairs.txt``, ``database.db``,
    the models ``sparse/0``, ``sparse/1``, ... (largest first) and ``report.json`` into ``output``,
    with ``refine`` also ``features-refined.h5``, of which database and models are then made.

    An image or mask that cannot be used is skipped, with the reason in the report; so is what looks
    like a photo and is of a kind that is not read. A scene that gives no model is no error:
    ``num_registered`` is 0 and ``diagnosis`` says what to do.

    Args:
        image_dir: images, searched with subfolders; ``output`` and ``mask_dir`` may lie in it.
        output: folder to write, or to go on with.
        options: how to extract, match and map.
        overwrite: replace what was made with other options, from the first stage that differs, and
            files in ``output`` that others made.
        progress: show bars on stderr.
        extractor: to use in place of the one that ``conf`` and ``config`` name.
        map_images: extracts on many workers, as for :func:`rekd_hloc.sfm.extraction.extract_files`.
        map_pairs: matches on them, as for :func:`rekd_hloc.matching.match_images.match_images`.
        **changes: options by their names, in place of those in ``options``: ``conf="rekd-fast"``.

    Returns:
        What is in ``report.json``; its ``reconstruction`` is the ``pycolmap.Reconstruction``.

    Raises:
        ValueError: an option out of range, a folder without images, cameras that do not fit the
            images, or files in ``output`` that were made with other options; nothing is changed.
        FileExistsError: files in ``output`` that others made or changed.
        TypeError: an option that there is not.
        FileNotFoundError: a folder or file that is named does not exist, or most images are gone
            before they were read; what is finished is kept.
        OSError: ``output`` cannot be written, another process is writing it, or the disk is full;
            what is finished is kept.
    """
    options = replace(options, **changes)
    listing = find_images(image_dir, mask_dir=options.mask_dir, output=output)
    names = listing.images
    options = replace(options, pairs=settle_source(options.pairs, len(names)))
    pairs = choose_early(options, image_dir, names, output / FEATURES)
    plan_cameras(options.cameras, image_dir, names)  # raises what does not fit, before the work
    if is_read_only(output) and not overwrite:
        extractor = extractor or _load_extractor(options)
        asked = describe_options(options, extractor.provenance)
        if done := read_finished(image_dir, output, options, listing, pairs, extractor, asked):
            return ReconstructionResult(done, output)
    with Run.start(
        image_dir, output, options.mapping, reference=options.reference,
        overwrite=overwrite, names=_writes(options.pairs, output), pairs=pairs, progress=progress,
    ) as run:  # fmt: skip
        report = _run_all_stages(run, options, listing, pairs, extractor, map_images, map_pairs)
    return ReconstructionResult(report, output)


def _run_all_stages(
    run: Run,
    options: ReconstructOptions,
    listing: ImageListing,
    pairs: Sequence[Pair],
    extractor: ImageExtractor | None,
    map_images: MapImages,
    map_pairs: MapPairs,
) -> dict[str, Any]:
    """Extract, match, verify and map, each stage going on from what it finds."""
    features_path, matches_path = run.output / FEATURES, run.output / MATCHES
    with run.watch.stage("extract"):
        extractor = extractor or _load_extractor(options)
        anew = _find_other_settings(run, options, extractor, features_path, matches_path)
        summary = extract_images(
            extractor, run.image_dir, features_path, names=listing.images,
            mask_dir=options.mask_dir, mask_frame=options.mask_frame,
            overwrite=features_path in anew, progress=run.progress, map_images=map_images,
        )  # fmt: skip
    run.watch.tell_found("extract", summary.num_resumed, len(summary.names))
    usable = set(summary.names)
    if depends_on_others(options.pairs):
        with run.watch.stage("pairs"):
            pairs = choose_pairs(
                options, run.image_dir, summary.names, features_path, progress=run.progress
            )
    pairs = [pair for pair in pairs if usable.issuperset(pair)]
    _write_pairs(run.folder, pairs, options.pairs)
    with run.watch.stage("match"):
        matched = match_images(
            features_path, matches_path, pairs, options.matching,
            overwrite=matches_path in anew, device=options.device, progress=run.progress,
            map_pairs=map_pairs,
        )  # fmt: skip
    pairs = [pair for pair in pairs if pair not in matched.failed]
    run.watch.tell_found("match", matched.num_resumed, len(matched.num_matches))
    check_still_there([run.image_dir / name for name in listing.images], run.output)
    configuration = describe_options(options, extractor.provenance)
    run.image_report = {**summary.notes, **matched.notes}
    counts, skipped = summary.num_keypoints, summary.skipped
    used_path = _refine(run, options, pairs, counts) if options.refine else features_path
    return build_model(
        run, used_path, matches_path, pairs, counts, skipped, configuration,
        unused=listing.unused,
    )  # fmt: skip


def _find_other_settings(
    run: Run,
    options: ReconstructOptions,
    extractor: ImageExtractor,
    features_path: Path,
    matches_path: Path,
) -> set[Path]:
    """Return the files that other options made, which are made anew.

    Raises:
        ValueError: there are some, and the user has not allowed to replace them.
    """
    anew = set()
    made_with: Mapping[str, str] = extractor.provenance
    overwrite = run.folder.overwrite
    if is_other(features_path, FeatureStore.MARKER, made_with, overwrite=overwrite):
        anew.add(features_path)
    else:
        made_with = read_provenance(features_path) or made_with
    matched_with = matching_provenance(make_matcher(options.matching), made_with)
    is_stale = features_path in anew and matches_path.exists()
    is_changed = is_other(matches_path, MatchStore.MARKER, matched_with, overwrite=overwrite)
    if is_changed or is_stale:
        anew.add(matches_path)
    refined_path = run.output / REFINED_FEATURES
    if options.refine:
        refuse_unrefined(refined_path, overwrite=overwrite)
    return anew


def _refine(
    run: Run, options: ReconstructOptions, pairs: Sequence[Pair], names: Collection[str]
) -> Path:
    """Refine the features of a run, anew where features or matches have changed; return the file.

    The matches are verified first, in a database of their own; that of the run holds the result.
    """
    refined_path = run.output / REFINED_FEATURES
    with run.watch.stage("refine"):
        summary = refine_features(
            run.output / FEATURES, run.output / MATCHES, run.image_dir, refined_path,
            pairs=pairs, options=RefineOptions(options.cameras, options.seed),
            redo=True, overwrite=not is_refined(stored_provenance(refined_path)),
            device=options.device, progress=run.progress,
        )  # fmt: skip
    run.watch.tell_found("refine", summary.num_resumed, len(summary.names))
    run.image_report = {**run.image_report, "refinement": summary.to_report(names)}
    return refined_path


def reconstruct_from_files(
    features: Path,
    matches: Path,
    pairs: Path | None,
    image_dir: Path,
    output: Path,
    *,
    options: MappingOptions = MappingOptions(),  # noqa: B008  (frozen)
    reference: Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> ReconstructionResult:
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
        overwrite: replace files in ``output`` that others made.
        progress: show bars on stderr.

    Returns:
        As :func:`reconstruct`.

    Raises:
        ValueError, FileNotFoundError, OSError: as :func:`reconstruct`.
    """
    with FeatureStore(features) as store:
        counts = {name: len(store.read_keypoints(name)) for name in store.names()}
        provenance = store.provenance
    if not counts:
        raise ValueError(f"{features} holds features of no image")
    if pairs is None:
        with MatchStore(matches) as store_of_matches:
            image_pairs = store_of_matches.pairs(counts)
    else:
        image_pairs = make_pairs(list(counts), pairs)
    configuration = {
        "preset": provenance.get("preset"),
        "extraction": stored_config(provenance),
        "extraction_hash": provenance.get("config_hash"),
        "features": str(features),
        "matches": str(matches),
        "pairs": str(pairs) if pairs else None,
    }
    with Run.start(
        image_dir, output, options, reference=reference,
        overwrite=overwrite, names=_writes(pairs, output), pairs=image_pairs, progress=progress,
    ) as run:  # fmt: skip
        _write_pairs(run.folder, image_pairs, pairs)
        report = build_model(run, features, matches, image_pairs, counts, {}, configuration)
    return ReconstructionResult(report, output)


def _writes(pairs: str | Path | None, output: Path) -> tuple[str, ...]:
    """Return what a run writes; a user's own pairs file in the output folder stays as it is."""
    is_own = pairs is not None and Path(pairs).resolve() == (output / PAIRS).resolve()
    return tuple(name for name in NAMES if not (is_own and name == PAIRS))


def _write_pairs(folder: OutputFolder, pairs: Sequence[Pair], source: str | Path | None) -> None:
    """A by-product: a name that a pairs file cannot hold must not end the run."""
    if PAIRS not in _writes(source, folder.path):
        return
    try:
        folder.write_text(PAIRS, format_pairs(pairs, folder.path / PAIRS))
    except ValueError as error:
        folder.remove(PAIRS)
        logger.warning("%s is not written: %s", folder.path / PAIRS, error)


def _load_extractor(options: ReconstructOptions) -> ImageExtractor:
    from rekd_hloc.features.extractor import Extractor

    config = options.config or read_for_reconstruction(options.conf)
    return Extractor.from_pretrained(options.conf, device=options.device, config=config)
