"""Pose errors of many image pairs: in several processes, each pair kept as soon as it is done."""

import hashlib
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from tqdm import tqdm

from evaluation.oriented_constraints import Correspondences, correspondences_of
from evaluation.pose_features import digest_of
from evaluation.pose_metrics import FAILED, direction_error_deg, rotation_error_deg
from evaluation.pose_pairs import PosePair
from evaluation.result_log import ResultLog
from evaluation.two_view import RansacOptions, estimate_pose, versions
from rekd_hloc.store import FeatureStore, MatchStore
from rekd_hloc.types import Features

logger = logging.getLogger(__name__)

PAIRS_A_TASK = 16
"""Pairs that a process is given at once."""
VERSION = 1
"""Part of every hash: to be raised when the same inputs are to give other results."""


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


@dataclass(frozen=True, eq=False)
class _Task:
    pair: PosePair
    matched: Correspondences


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
        settings = {
            **asdict(options), **versions(options.estimator), "seed": seed, "version": VERSION,
            "matches": digest_of({**matches.provenance, "features": dict(features.provenance)}),
        }  # fmt: skip
        log = open_pair_log(folder / f"{matches_path.stem}-{digest_of(settings)}.jsonl")
        missing = [pair for pair in pairs if pair.digest() not in log]
        names = {name for pair in missing for name in pair.names}
        read = {name: features.read(name) for name in names}

        def make_tasks() -> Iterator[list[_Task]]:
            for start in range(0, len(missing), PAIRS_A_TASK):
                chunk = missing[start : start + PAIRS_A_TASK]
                yield [_make_task(pair, read, matches) for pair in chunk]

        bar = tqdm(total=len(missing), desc=label, unit="pair", disable=None, leave=False)
        with bar:
            for results in _run(make_tasks, options, seed, pool):
                for digest, result in results:
                    log.add(digest, result)
                    bar.update()
    return [log.get(pair.digest()) for pair in pairs]


@contextmanager
def open_pool(jobs: int) -> Iterator[Executor | None]:
    """Processes that estimate; None for one job.

    They are started anew (``spawn``): torch and OpenCV have threads that a fork would lose.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    if jobs == 1:
        yield None
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_pair_log(path: Path) -> ResultLog[PairResult]:
    """Finished pairs of a file."""
    return ResultLog(path, PairResult.from_record, "pair")


def pair_seed(names: tuple[str, str], seed: int) -> int:
    """The seed of one pair's samples, in the range of 31 bits that all estimators take."""
    text = f"{seed} {names[0]} {names[1]}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


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


def _make_task(pair: PosePair, features: Mapping[str, Features], matches: MatchStore) -> _Task:
    found = matches.read(*pair.names)
    return _Task(pair, correspondences_of(features[pair.a], features[pair.b], found))


def _measure_tasks(
    tasks: Sequence[_Task], options: RansacOptions, seed: int
) -> list[tuple[str, PairResult]]:
    return [(t.pair.digest(), measure_pair(t.pair, t.matched, options, seed)) for t in tasks]


def _run(
    make_tasks: Callable[[], Iterator[list[_Task]]],
    options: RansacOptions,
    seed: int,
    pool: Executor | None,
) -> Iterator[list[tuple[str, PairResult]]]:
    """Results as they come."""
    if pool is None:
        for tasks in make_tasks():
            yield _measure_tasks(tasks, options, seed)
        return
    futures = [pool.submit(_measure_tasks, tasks, options, seed) for tasks in make_tasks()]
    for future in as_completed(futures):
        yield future.result()
