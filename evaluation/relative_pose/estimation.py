"""Pose errors of many image pairs: in several processes, each pair kept as soon as it is done."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from tqdm import tqdm

from evaluation.extractors.extraction import digest_of
from evaluation.metrics.pose import FAILED, direction_error_deg, rotation_error_deg
from evaluation.relative_pose.correspondences import Correspondences
from evaluation.relative_pose.dataset import PosePair
from evaluation.relative_pose.pair_work import (
    correspondences_between,
    pair_seed,
    settings_of,
    work_in_chunks,
)
from evaluation.relative_pose.result_log import ResultLog
from evaluation.relative_pose.two_view import RansacOptions, estimate_pose
from rekd_hloc.storage.features import FeatureStore, MatchStore


@dataclass(frozen=True)
class PairResult:
    """What became of one pair.

    Attributes:
        a: name of the first image.
        b: name of the second image.
        rotation_error_deg: inf where no pose was found.
        direction_error_deg: of the translation, sign-free; likewise.
        num_matches: before the robust estimation.
        num_inliers: that agree with the estimated geometry.
        seconds: of processor time that the estimation took.
    """

    a: str
    b: str
    rotation_error_deg: float
    direction_error_deg: float
    num_matches: int
    num_inliers: int
    seconds: float

    @property
    def error_deg(self) -> float:
        """The larger of both errors."""
        return max(self.rotation_error_deg, self.direction_error_deg)

    def to_record(self) -> dict[str, Any]:
        """As JSON can hold it: what is infinite is null."""
        return {
            key: None if isinstance(value, float) and not np.isfinite(value) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_record`."""
        values: dict[str, Any] = {
            key: FAILED if value is None else value for key, value in record.items()
        }
        return cls(**values)


def estimate_pairs(
    pairs: Sequence[PosePair],
    features_path: Path,
    matches_path: Path,
    options: RansacOptions,
    seed: int,
    folder: Path,
    *,
    pool: Executor | None = None,
    label: str = "poses",
) -> list[PairResult]:
    """Estimate the pose of every pair; those of earlier runs are read.

    Args:
        pairs: with true poses.
        features_path: file of features of all images.
        matches_path: file of the matches of all pairs.
        options: of the robust estimator.
        seed: every pair's samples depend on it and on the names of the pair, so results do not
            depend on the order or number of processes.
        folder: for the JSON lines.
        pool: processes from :func:`open_pool`; None works here.
        label: of the progress bar.

    Returns:
        One result for each pair, in their order.

    Raises:
        ValueError: a pair without matches or an image without features.
        ImportError: the estimator's package is missing.
    """
    with FeatureStore(features_path) as features, MatchStore(matches_path) as matches:
        settings = settings_of(features, matches, options, seed)
        log = open_pair_log(folder / f"{matches_path.stem}-{digest_of(settings)}.jsonl")
        missing = [pair for pair in pairs if pair.digest() not in log]
        found = {name: features.read(name) for pair in missing for name in pair.names}

        def read(pair: PosePair) -> Correspondences:
            return correspondences_between(pair.names, found, matches)

        work = partial(_measure_pairs, options=options, seed=seed)
        bar = tqdm(total=len(missing), desc=label, unit="pair", disable=None, leave=False)
        with bar:
            for digest, result in work_in_chunks(missing, read, work, pool):
                log.add(digest, result)
                bar.update()
    return [log.get(pair.digest()) for pair in pairs]


def open_pair_log(path: Path) -> ResultLog[PairResult]:
    """Finished pairs of a file."""
    return ResultLog(path, PairResult.from_record, "pair")


def measure_pair(
    pair: PosePair, matched: Correspondences, options: RansacOptions, seed: int
) -> PairResult:
    """Estimate one pair's pose from its matched features and compare it with the true one."""
    own_seed = pair_seed(pair.names, seed)
    start = time.thread_time()
    found = estimate_pose(
        matched.xy_a, matched.xy_b, pair.K_a, pair.K_b, options, own_seed,
        steps=(matched.step_a, matched.step_b),
    )  # fmt: skip
    seconds = time.thread_time() - start
    rotation, direction = FAILED, FAILED
    if found.pose is not None and all(np.isfinite(part).all() for part in found.pose):
        rotation = rotation_error_deg(found.pose[0], pair.rotation)
        direction = direction_error_deg(found.pose[1], pair.translation)
    return PairResult(
        pair.a, pair.b, rotation, direction, len(matched), int(found.inliers.sum()), seconds
    )


def _measure_pairs(
    chunk: Sequence[tuple[PosePair, Correspondences]], options: RansacOptions, seed: int
) -> list[tuple[str, PairResult]]:
    return [(pair.digest(), measure_pair(pair, matched, options, seed)) for pair, matched in chunk]
