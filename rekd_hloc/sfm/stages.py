"""From files of features and matches to models and a report: the last stages of every way there.

The database stays, with the pairs that are verified, as long as it would be made from the same
files in the same way; ``database.json`` records that. Mapping always starts anew.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from rekd_hloc.files import replace_folder, write_json
from rekd_hloc.json_text import read_json
from rekd_hloc.renamed_options import translate_config
from rekd_hloc.sfm.alignment import Pose, read_reference
from rekd_hloc.sfm.cameras import check_camera
from rekd_hloc.sfm.database import export_database, stored_patch_size_px
from rekd_hloc.sfm.diagnosis import connected_groups, diagnose
from rekd_hloc.sfm.mapping import check_mapper, map_scene
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.sfm.report import (
    Stopwatch,
    describe_errors,
    describe_models,
    describe_pairs,
    describe_run,
    num_registered,
    registered_names,
)
from rekd_hloc.sfm.verification import MAX_ERROR_PX, MAX_SEED, Counts, check_seed, verify
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Pair

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Mappings tried at most; one in five starts from a bad pair on hard images."""
ENOUGH = 0.5
"""Share of the images that verified pairs tie together; a model with fewer is tried again."""
SEED_STEP = 1_000_003
"""From one attempt's seed to the next: far from the seeds that people choose."""


@dataclass(frozen=True)
class MappingOptions:
    """How features and matches become a model.

    Attributes:
        mapper: ``incremental`` or ``global``.
        camera_model: COLMAP's name of it.
        camera_mode: ``auto``, ``single``, ``per_folder`` or ``per_image``.
        intrinsics: known parameters of the camera model, which are kept as they are.
        seed: of verification and mapping.
        num_threads: of the mapper; 1 is repeatable to the bit, -1 takes all cores.
        quantise_descriptors: also write descriptors that COLMAP's own matchers can use.

    Raises:
        ValueError: an option that COLMAP does not know or cannot take.
    """

    mapper: str = "incremental"
    camera_model: str = "SIMPLE_RADIAL"
    camera_mode: str = "auto"
    intrinsics: Sequence[float] | None = None
    seed: int = 0
    num_threads: int = 1
    quantise_descriptors: bool = False

    def __post_init__(self) -> None:
        check_mapper(self.mapper)
        check_camera(self.camera_model, self.camera_mode, self.intrinsics)
        check_seed(self.seed)


@dataclass
class Run:
    """Hold what the stages of one reconstruction share."""

    image_dir: Path
    output: Path
    options: MappingOptions
    reference: Mapping[str, Pose] | None
    progress: bool
    watch: Stopwatch = field(default_factory=Stopwatch)

    @classmethod
    def start(
        cls,
        image_dir: Path,
        output: Path,
        options: MappingOptions,
        reference: Path | None,
        progress: bool,
    ) -> Self:
        """Check and read all that could stop the run later, and make the output folder.

        Raises:
            ValueError: the output is the image folder, or the reference cannot be read.
            FileNotFoundError: there is no reference.
            OSError: the output folder cannot be made.
        """
        if output.resolve() == image_dir.resolve():
            raise ValueError(f"output {output} is the image folder itself; name a folder inside it")
        poses = read_reference(reference) if reference is not None else None
        output.mkdir(parents=True, exist_ok=True)
        return cls(image_dir, output, options, poses, progress)


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
    database = run.output / "database.db"
    with run.watch.stage("database"):
        provenance = _update_database(run, database, features_path, matches_path, pairs, names)
    with run.watch.stage("verify"):
        counts = verify(database, pairs, options.seed, progress=run.progress)
    with run.watch.stage("map"):
        models, attempts = _map(run, database, names, counts)
    report: dict[str, Any] = {
        "num_images": len(names) + len(skipped),
        **describe_models(models, names),
        "num_attempts": attempts,
        "diagnosis": diagnose(num_keypoints, counts, registered_names(models)),
        "pairs": describe_pairs(counts),
        "num_keypoints": sum(num_keypoints.values()),
        "skipped": {**skipped, **(unused or {})},
    }
    if run.reference is not None:
        with run.watch.stage("align"):
            report |= describe_errors(models, run.reference)
    report |= {
        "seconds": {**run.watch.seconds, "total": sum(run.watch.seconds.values())},
        "seed": options.seed,
        "configuration": {**configuration, "mapping": asdict(options)},
        **describe_run(provenance),
    }
    write_json(run.output / "report.json", report, kept_in=run.output)
    return report


def _map(run: Run, database: Path, names: Sequence[str], counts: Counts) -> tuple[list[Any], int]:
    """Return the best of the attempts it took to get a model of most images, and their number."""
    out, other = run.output / "sparse", run.output / "sparse.other"
    shutil.rmtree(other, ignore_errors=True)
    if not any(inliers for _, inliers in counts.values()):
        shutil.rmtree(out, ignore_errors=True)
        return [], 0
    wanted = ENOUGH * len(connected_groups(names, counts)[0])
    best: list[Any] = []
    for attempt in range(ATTEMPTS):
        folder = other if attempt else out
        models = map_scene(
            database,
            run.image_dir,
            folder,
            mapper=run.options.mapper,
            seed=(run.options.seed + attempt * SEED_STEP) % (MAX_SEED + 1),
            num_threads=run.options.num_threads,
            refine_intrinsics=run.options.intrinsics is None,
            progress=run.progress,
        )
        if attempt and num_registered(models) > num_registered(best):
            replace_folder(out, folder)
        best = max(best, models, key=num_registered)
        if num_registered(best) >= wanted:
            break
        logger.info("attempt %d registered %d images", attempt + 1, num_registered(models))
    shutil.rmtree(other, ignore_errors=True)
    return best, attempt + 1


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
            "camera_model": options.camera_model,
            "camera_mode": options.camera_mode,
            "intrinsics": options.intrinsics,
            "patch_size_px": stored_patch_size_px(features),
            "quantise_descriptors": options.quantise_descriptors,
        }
        sources = {
            **how,
            "pycolmap": pycolmap.__version__,
            "seed": options.seed,
            "max_error_px": MAX_ERROR_PX,
            "images": str(run.image_dir.resolve()),
            "files": [_stamp(features_path), _stamp(matches_path)],
            "names": _digest(names),
            "pairs": _digest(pairs),
        }
        record = database.with_suffix(".json")
        stored = translate_config(_read_json(record))
        if database.is_file() and stored == json.loads(json.dumps(sources)):
            logger.info("%s is up to date", database)
            return features.provenance
        record.unlink(missing_ok=True)
        export_database(
            database,
            run.image_dir,
            features,
            matches,
            pairs,
            names=names,
            progress=run.progress,
            **how,
        )
        write_json(record, sources, kept_in=run.output)
        return features.provenance


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _stamp(path: Path) -> list[Any]:
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
