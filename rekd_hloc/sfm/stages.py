"""From files of features and matches to models and a report: the last stages of every way there.

The database stays, with the pairs that are verified, as long as it would be made from the same
files in the same way; ``database.json`` records that. So does the model, while the database stays.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from rekd_hloc.locks import RECORD_FOLDER
from rekd_hloc.sfm.alignment import Pose, read_reference
from rekd_hloc.sfm.attempts import Attempts, map_left_groups, try_to_map
from rekd_hloc.sfm.camera_report import describe_cameras
from rekd_hloc.sfm.database import export_database, stored_patch_size_px
from rekd_hloc.sfm.database_record import RECONSTRUCTION, write_database
from rekd_hloc.sfm.database_sources import file_stamp, list_digest, read_sources
from rekd_hloc.sfm.degeneracy import describe_geometry
from rekd_hloc.sfm.diagnosis import SURE_INLIERS, connected_groups, diagnose
from rekd_hloc.sfm.kept_model import note_mapped, read_kept_model
from rekd_hloc.sfm.mapping import map_scene
from rekd_hloc.sfm.mapping_options import MappingOptions
from rekd_hloc.sfm.output_folder import (
    DATABASE,
    DATABASE_RECORD,
    MADE,
    MODEL,
    REPORT,
    OutputFolder,
)
from rekd_hloc.sfm.pycolmap_compat import pycolmap, write_errors
from rekd_hloc.sfm.report import (
    Stopwatch,
    describe_errors,
    describe_models,
    describe_pairs,
    describe_run,
    names_elsewhere,
    registered_names,
)
from rekd_hloc.sfm.scene_motion import find_motions, lacks_parallax
from rekd_hloc.sfm.verification import Counts, verify
from rekd_hloc.sfm.work_seconds import WORK_SECONDS, carry_on, read_work_seconds
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Pair

__all__ = ["MappingOptions", "Run", "build_model"]

logger = logging.getLogger(__name__)

ENOUGH = 0.5
"""Share of the images that verified pairs tie together; a model with fewer is tried again."""


@dataclass
class Run:
    """Hold what the stages of one reconstruction share, and what the report tells of images."""

    image_dir: Path
    folder: OutputFolder
    options: MappingOptions
    reference: Mapping[str, Pose] | None
    progress: bool
    watch: Stopwatch = field(default_factory=Stopwatch)
    image_report: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def start(
        cls,
        image_dir: Path,
        output: Path,
        options: MappingOptions,
        *,
        reference: Path | None = None,
        progress: bool = False,
        **writes: Any,
    ) -> Iterator[Self]:
        """Check and read all that could stop the run later, and hold the output folder.

        Args as for ``reconstruct``, and ``writes``, as for :meth:`OutputFolder.hold`.

        Raises:
            ValueError: the output is the image folder, or the reference cannot be read.
            FileNotFoundError: there is no reference.
            FileExistsError: the folder holds files that someone else made.
            OSError: the output folder cannot be made, or another process is writing it.
        """
        if output.resolve() == image_dir.resolve():
            raise ValueError(f"output {output} is the image folder itself; name a folder inside it")
        poses = read_reference(reference) if reference is not None else None
        with OutputFolder.hold(output, **writes) as folder:
            yield cls(image_dir, folder, options, poses, progress)

    @property
    def output(self) -> Path:
        """Return the output folder's path."""
        return self.folder.path


def build_model(
    run: Run,
    features_path: Path,
    matches_path: Path,
    pairs: Sequence[Pair],
    num_keypoints: Mapping[str, int],
    skipped: Mapping[str, str],
    configuration: Mapping[str, Any],
    *,
    unused: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write database, models and report into the run's output folder.

    Args:
        run: where and how.
        features_path: of the images.
        matches_path: of the pairs.
        pairs: to verify.
        num_keypoints: of each image that takes part.
        skipped: images that do not, and why.
        configuration: of the stages before, for the report.
        unused: what looks like a photo and is no image that can be read, and why.

    Returns:
        The report.

    Raises:
        ValueError: a pair without matches, or features that do not fit the options.
        OSError: something could not be written; what is finished is kept.
    """
    options, names = run.options, list(num_keypoints)
    database = run.output / DATABASE
    with run.watch.stage("database"):
        provenance = _update_database(run, database, features_path, matches_path, pairs, names)
    with run.watch.stage("verify"), write_database(database, owner=RECONSTRUCTION):
        counts = verify(
            database, pairs, options.seed,
            max_error_px=options.threshold_px(provenance), progress=run.progress,
        )  # fmt: skip
        motions, configurations = find_motions(database, pairs)
    with run.watch.stage("map"):
        may_relax = options.mapper == "incremental" and not lacks_parallax(motions)
        previous = None
        kept = read_kept_model(run.folder, options, names)
        if kept is not None:
            logger.info("%s is up to date", run.output / MODEL)
            run.watch.tell_found("map", 1, 1)
        tried = kept or Attempts()
        if kept is None:
            tried, previous = _map(
                run, database, names, counts,
                may_relax=may_relax, max_error_px=options.reprojection_px(provenance),
            )  # fmt: skip
    models = tried.models
    geometry = describe_geometry(motions, configurations, models, relaxed=tried.relaxed)
    cameras = describe_cameras(database, run.image_dir, options.cameras, models)
    reasons = list(geometry["warnings"])
    if geometry["has_parallax"] or not reasons:  # else it is the reason
        known, elsewhere = registered_names(models), names_elsewhere(models)
        reasons.insert(0, diagnose(num_keypoints, counts, known, cameras, elsewhere))
    report: dict[str, Any] = {
        "num_images": len(names) + len(skipped),
        **describe_models(models, names),
        "num_attempts": len(tried.records),
        "attempts": tried.records,
        "previous_model": previous,
        "diagnosis": " ".join(filter(None, reasons)),
        "geometry": geometry,
        "pairs": describe_pairs(counts),
        "cameras": [camera.to_json() for camera in cameras],
        "num_keypoints": sum(num_keypoints.values()),
        "skipped": {**skipped, **(unused or {})},
        **run.image_report,
    }
    if run.reference is not None:
        with run.watch.stage("align"):
            report |= describe_errors(models, run.reference)
    report |= {
        "seconds": {**run.watch.seconds, "total": sum(run.watch.seconds.values())},
        WORK_SECONDS: carry_on(
            run.watch.seconds,
            run.watch.shares_found,
            read_work_seconds(run.output / REPORT),
        ),
        "seed": options.seed,
        "configuration": {**configuration, "mapping": options.to_json()},
        **describe_run(provenance),
    }
    run.folder.write_json(REPORT, report)
    note_mapped(run.folder, options, names)
    return report


def _map(
    run: Run, database: Path, names: Sequence[str], counts: Counts, *,
    may_relax: bool, max_error_px: float | None,
) -> tuple[Attempts, str | None]:  # fmt: skip
    """Put a model of most images in the place of the old one, or the old one aside.

    Returns:
        What was tried, with the models of the best attempt, and where the old model is now.
    """
    if not any(inliers for _, inliers in counts.values()):
        return Attempts(), run.folder.set_model_aside()

    def map_once(folder: Path, seed: int, relaxed: bool, chosen: Sequence[str] = ()) -> list[Any]:
        return map_scene(
            database,
            run.image_dir,
            folder,
            mapper=run.options.mapper,
            seed=seed,
            num_threads=run.options.num_threads,
            refine_intrinsics=run.options.intrinsics is None,
            relaxed=relaxed,
            max_error_px=max_error_px,
            names=chosen,
            progress=run.progress,
        )

    def map_group(folder: Path, group: Sequence[str]) -> list[Any]:
        members = set(group)
        motions, _ = find_motions(database, [pair for pair in counts if members.issuperset(pair)])
        return [] if lacks_parallax(motions) else map_once(folder, run.options.seed, True, group)

    wanted = ENOUGH * len(connected_groups(names, counts)[0])
    with write_errors(run.output / MODEL), run.folder.scratch() as scratch:
        tried = try_to_map(
            map_once, scratch, seed=run.options.seed, wanted=wanted, may_relax=may_relax
        )
        if may_relax and not any("relaxed" in record for record in tried.records):
            groups = connected_groups(names, counts, SURE_INLIERS)
            map_left_groups(tried, map_group, groups, scratch, run.options.seed)
        if tried.folder is not None:
            return tried, run.folder.replace_model(tried.folder)
    return tried, run.folder.set_model_aside()


def _update_database(
    run: Run,
    database: Path,
    features_path: Path,
    matches_path: Path,
    pairs: Sequence[Pair],
    names: Sequence[str],
) -> dict[str, str]:
    """Build the database unless it is up to date; returns the features' provenance."""
    options = run.options
    with FeatureStore(features_path) as features, MatchStore(matches_path) as matches:
        how: dict[str, Any] = {
            **asdict(options.cameras),
            "patch_size_px": stored_patch_size_px(features),
            "quantise_descriptors": options.quantise_descriptors,
        }
        sources = {
            **how,
            "pycolmap": pycolmap.__version__,
            "seed": options.seed,
            "max_error_px": options.threshold_px(features.provenance),
            "images": str(run.image_dir.resolve()),
            "files": [file_stamp(features_path), file_stamp(matches_path)],
            "names": list_digest(names),
            "pairs": list_digest(pairs),
        }
        stored = read_sources(run.output / DATABASE_RECORD)
        is_current = stored == json.loads(json.dumps(sources))
        if database.is_file() and is_current and run.folder.owns_database():
            logger.info("%s is up to date", database)
            for stage in ("database", "verify"):
                run.watch.tell_found(stage, 1, 1)
            return features.provenance
        run.folder.remove(DATABASE_RECORD)
        export_database(
            database,
            run.image_dir,
            features,
            matches,
            pairs,
            names=names,
            owner=RECONSTRUCTION,
            overwrite=run.folder.overwrite or run.folder.owns_database(),
            progress=run.progress,
            **how,
        )
        run.folder.write_json(DATABASE_RECORD, {**sources, MADE: RECORD_FOLDER})
        return features.provenance
