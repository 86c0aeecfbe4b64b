"""Writes features and matches as an official IMC submission.

For each ``<dataset>/<scene>``: ``keypoints.h5`` (keypoint, 2), ``descriptors.h5`` (keypoint,
channel), ``scores.h5``, ``scales.h5``, ``angles.h5`` (degrees, as OpenCV), one array an image;
``matches_stereo_<run>.h5`` and ``matches_multiview.h5`` with one (2, match) array a pair; and one
``config.json``. The organisers take a stereo pose from all matches of a pair by the 8-point
algorithm, so stereo matches have to be a robust estimator's inliers, one file for each of its runs.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from evaluation.extractors.extraction import digest_of
from evaluation.imc.dataset import Scene
from evaluation.imc.submission_arrays import pair_key, write_arrays
from evaluation.imc.submission_config import CONFIG, Labels, Metadata, category_of, make_config
from evaluation.relative_pose.correspondences import Correspondences
from evaluation.relative_pose.dataset import all_pairs
from evaluation.relative_pose.estimation import (
    correspondences_between,
    pair_seed,
    settings_of,
    work_in_chunks,
)
from evaluation.relative_pose.estimators import ESTIMATORS, RansacOptions, estimate_pose
from rekd_hloc.files import write_text
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Features, Pair

STEREO_RUNS = (1, 3)
"""Files of stereo matches that a submission may have; the 2021 challenge wanted one."""


@dataclass(frozen=True)
class Submission:
    """What is submitted of one scene.

    Attributes:
        scene: whose images and pairs all have to be there.
        features: file of all its images.
        stereo: files with a robust estimator's inliers, one for each of its runs.
        multiview: file of the matches for COLMAP.

    Images have their names in the scene in all these files.

    Raises:
        ValueError: a number of runs that the benchmark does not take.
    """

    scene: Scene
    features: Path
    stereo: Sequence[Path]
    multiview: Path

    def __post_init__(self) -> None:
        if len(self.stereo) not in STEREO_RUNS:
            raise ValueError(f"a submission has 1 or 3 stereo runs, got {len(self.stereo)}")


def export_submission(
    folder: Path, parts: Sequence[Submission], labels: Labels, metadata: Metadata
) -> int:
    """Write a whole submission; files that are there are replaced.

    Args:
        folder: to write to. The organisers take it as a zip file.
        parts: all scenes of the submission.
        labels: of keypoints, descriptors and matches.
        metadata: who and what.

    Returns:
        The category, 2048 or 8000.

    Raises:
        ValueError: an image with too many keypoints, or without features.
        OSError: a file could not be written.
    """
    if not parts:
        raise ValueError("a submission needs one scene at least")
    largest = max(_export_scene(folder / part.scene.key, part) for part in parts)
    category = category_of(largest)
    datasets = list(dict.fromkeys(part.scene.dataset for part in parts))
    content = make_config(labels, metadata, category, datasets)
    write_text(folder / CONFIG, json.dumps(content, indent=2) + "\n")
    return category


def keep_inliers(
    features_path: Path, matches_path: Path, pairs: Sequence[Pair], options: RansacOptions,
    seed: int, folder: Path, *, pool: Executor | None = None,
) -> Path:  # fmt: skip
    """Write a robust estimator's inliers of all pairs that are not in their file yet.

    They are those that the stereo task finds with the same seed.

    Args:
        features_path: file of features of all images.
        matches_path: file of the matches of all pairs.
        pairs: image names.
        options: of the robust estimator.
        seed: not negative.
        folder: for the file of matches; its name holds a hash of all that it depends on.
        pool: processes; None works here.

    Raises:
        ValueError: an estimator that knows the intrinsics, or a pair without matches.
        ImportError: the estimator's package is missing.
    """
    _refuse_intrinsics(options.estimator)
    with FeatureStore(features_path) as features, MatchStore(matches_path) as matches:
        settings = settings_of(features, matches, options, seed)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{matches_path.stem}-{digest_of(settings)}.h5"
        provenance = {key: str(value) for key, value in settings.items()}
        with MatchStore.resume(path, provenance) as out:
            missing = [pair for pair in pairs if pair not in out]
            by_name = {name: features.read(name) for pair in missing for name in pair}
            read = partial(correspondences_between, features=by_name, matches=matches)
            work = partial(_estimate, options=options, seed=seed)
            done = work_in_chunks(missing, read, work, pool)
            bar = tqdm(done, f"inliers, seed {seed}", len(missing), unit="pair", disable=None)
            for pair, inliers in bar:
                selected = matches.read(*pair)[torch.from_numpy(inliers)]
                out.write(*pair, selected, len(by_name[pair[0]]))
    return path


def _refuse_intrinsics(estimator: str) -> None:
    """The challenge allows none."""
    if estimator.startswith("essential"):
        allowed = ", ".join(name for name in ESTIMATORS if not name.startswith("essential"))
        raise ValueError(
            f"a submission must not use intrinsics, as {estimator!r} does; take one of {allowed}"
        )


def _export_scene(folder: Path, part: Submission) -> int:
    """Writes one scene; returns the keypoints of its largest image."""
    with FeatureStore(part.features) as store:
        features = {name: store.read(name) for name in part.scene.images}
    largest = max(len(entry) for entry in features.values())
    category_of(largest)
    arrays: dict[str, Callable[[Features], Tensor]] = {
        "keypoints": lambda entry: entry.keypoints.xy,
        "descriptors": lambda entry: entry.descriptors,
        "scores": lambda entry: entry.keypoints.score,
        "scales": lambda entry: entry.keypoints.scale,
        "angles": lambda entry: torch.rad2deg(entry.keypoints.angle),
    }
    for kind, read in arrays.items():
        rows = ((name, _floats(read(entry))) for name, entry in features.items())
        write_arrays(folder / f"{kind}.h5", rows)
    for run in range(max(STEREO_RUNS)):
        path = folder / f"matches_stereo_{run}.h5"
        path.unlink(missing_ok=True)
        if run < len(part.stereo):
            write_arrays(path, _pair_arrays(part, part.stereo[run], path.stem))
    path = folder / "matches_multiview.h5"
    write_arrays(path, _pair_arrays(part, part.multiview, path.stem))
    return largest


def _pair_arrays(part: Submission, source: Path, label: str) -> Iterator[tuple[str, NDArray[Any]]]:
    pairs = all_pairs(part.scene.images)
    bar = tqdm(pairs, f"{part.scene.name} {label}", unit="pair", disable=None, leave=False)
    with MatchStore(source) as store:
        for a, b in bar:
            index = store.read(a, b).index.numpy()
            yield pair_key(a, b), np.ascontiguousarray(index.T, dtype=np.int32)


def _floats(tensor: Tensor) -> NDArray[np.float32]:
    return np.asarray(tensor.cpu().numpy(), dtype=np.float32)


def _estimate(
    chunk: Sequence[tuple[Pair, Correspondences]], options: RansacOptions, seed: int
) -> list[tuple[Pair, np.ndarray]]:
    """Images may lack a calibration: inliers of a fundamental matrix do not depend on it."""
    unknown = np.eye(3)
    results = []
    for pair, matched in chunk:
        estimated = estimate_pose(
            matched.xy_a, matched.xy_b, unknown, unknown, options, pair_seed(pair, seed),
            orientations=(matched.orientation_a, matched.orientation_b),
        )  # fmt: skip
        results.append((pair, estimated.inliers))
    return results
