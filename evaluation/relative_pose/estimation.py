"""Pose errors of many image pairs: in several processes, each pair stored as soon as it is done."""

import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from tqdm import tqdm

from evaluation.extractors.extraction import digest_of
from evaluation.metrics.pose import FAILED, direction_error_deg, rotation_error_deg
from evaluation.relative_pose.correspondences import Correspondences, correspondences_of
from evaluation.relative_pose.dataset import PosePair
from evaluation.relative_pose.estimators import (
    REGISTERING_MODULES,
    RansacOptions,
    estimate_pose,
    import_registering_modules,
    versions,
)
from evaluation.relative_pose.refined_store import RefinedStore
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Features, Pair

PAIRS_A_TASK = 16
"""Pairs that a process is given at once."""
VERSION = 1
"""Part of every hash: to be raised when the same inputs are to give other results."""

AnyPair = TypeVar("AnyPair")
Result = TypeVar("Result")
Work = Callable[[Sequence[tuple[AnyPair, Correspondences]]], list[Result]]
"""What is done with a chunk, perhaps in another process: it must be a function of a module."""


class Recordable(Protocol):
    """A result that JSON can hold."""

    def to_record(self) -> dict[str, Any]:
        """Return plain values."""


Recorded = TypeVar("Recorded", bound=Recordable)


class ResultLog(Generic[Recorded]):
    """A file of JSON lines that only grows; a line cut off by a kill is done again.

    Args:
        path: of the file; it need not exist.
        from_record: the inverse of the results' ``to_record``.
        key_name: of the key in a line, which is a hash of all that the result depends on.
    """

    def __init__(
        self, path: Path, from_record: Callable[[dict[str, Any]], Recorded], key_name: str = "key"
    ) -> None:
        self._path = path
        self._key_name = key_name
        self._results: dict[str, Recorded] = {}
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        self._is_whole = not text or text.endswith("\n")
        for line in text.splitlines():
            try:
                record = json.loads(line)
                self._results[record[key_name]] = from_record(record["result"])
            except (ValueError, KeyError, TypeError):
                continue

    def __contains__(self, key: str) -> bool:
        return key in self._results

    def get(self, key: str) -> Recorded:
        """Return the result under a key that is in the log."""
        return self._results[key]

    def add(self, key: str, result: Recorded) -> None:
        """Append a result to the file at once."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({self._key_name: key, "result": result.to_record()}, allow_nan=False)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(("" if self._is_whole else "\n") + line + "\n")
        self._is_whole = True
        self._results[key] = result


@dataclass(frozen=True)
class PairResult:
    """What became of one pair.

    Attributes:
        a: name of the first image.
        b: name of the second image.
        rotation_error_deg: inf where no pose was estimated.
        direction_error_deg: of the translation, sign-free; likewise.
        num_matches: before the robust estimation.
        num_inliers: that agree with the estimated geometry.
        seconds: of CPU time that the estimation took.
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
        """Return the larger of both errors."""
        return max(self.rotation_error_deg, self.direction_error_deg)

    def to_record(self) -> dict[str, Any]:
        """Return values that JSON can hold: what is infinite is null."""
        return {
            key: None if isinstance(value, float) and not np.isfinite(value) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Invert :meth:`to_record`."""
        values: dict[str, Any] = {
            key: FAILED if value is None else value for key, value in record.items()
        }
        return cls(**values)


def estimate_pairs(
    pairs: Sequence[PosePair], features_path: Path, matches_path: Path, options: RansacOptions,
    seed: int, folder: Path, *, refined_path: Path | None = None, pool: Executor | None = None,
    label: str = "poses",
) -> list[PairResult]:  # fmt: skip
    """Return the estimated pose of every pair, in their order; those of earlier runs are read.

    Args:
        pairs: with true poses.
        features_path: file of features of all images.
        matches_path: file of the matches of all pairs.
        options: of the robust estimator.
        seed: every pair's samples depend on it and on the names of the pair, so results do not
            depend on the order or number of processes.
        folder: for the JSON lines.
        refined_path: file of refined positions of the same matches; None leaves them as they are.
        pool: processes from :func:`open_pool`; None works here.
        label: of the progress bar.

    Raises:
        ValueError: a pair without matches or an image without features.
        ImportError: the estimator's package is missing.
    """
    with (
        FeatureStore(features_path) as store,
        MatchStore(matches_path) as matches,
        RefinedStore(refined_path) if refined_path else nullcontext() as refined,
    ):
        settings = settings_of(store, matches, options, seed)
        if refined is not None:
            settings["refined"] = digest_of(dict(refined.provenance))
        log = open_pair_log(folder / f"{matches_path.stem}-{digest_of(settings)}.jsonl")
        missing = [pair for pair in pairs if pair.digest() not in log]
        features = {name: store.read(name) for pair in missing for name in pair.names}

        def read(pair: PosePair) -> Correspondences:
            matched = correspondences_between(pair.names, features, matches)
            return matched if refined is None else refined.read(*pair.names).apply(matched)

        work = partial(_measure_pairs, options=options, seed=seed)
        done = work_in_chunks(missing, read, work, pool)
        bar = tqdm(done, label, len(missing), unit="pair", disable=None, leave=False)
        for digest, result in bar:
            log.add(digest, result)
    return [log.get(pair.digest()) for pair in pairs]


def measure_pair(
    pair: PosePair, matched: Correspondences, options: RansacOptions, seed: int
) -> PairResult:
    """Estimate one pair's pose from its matched features and compare it with the true one."""
    start = time.thread_time()
    estimated = estimate_pose(
        matched.xy_a, matched.xy_b, pair.K_a, pair.K_b, options, pair_seed(pair.names, seed),
        orientations=(matched.orientation_a, matched.orientation_b),
    )  # fmt: skip
    seconds = time.thread_time() - start
    rotation, direction = FAILED, FAILED
    if estimated.pose is not None and all(np.isfinite(part).all() for part in estimated.pose):
        rotation = rotation_error_deg(estimated.pose[0], pair.rotation)
        direction = direction_error_deg(estimated.pose[1], pair.translation)
    num_inliers = int(estimated.inliers.sum())
    return PairResult(pair.a, pair.b, rotation, direction, len(matched), num_inliers, seconds)


def open_pair_log(path: Path) -> ResultLog[PairResult]:
    """Open the finished pairs of a file."""
    return ResultLog(path, PairResult.from_record, "pair")


@contextmanager
def open_pool(jobs: int) -> Iterator[Executor | None]:
    """Start processes that estimate; None for one job.

    They are started anew (``spawn``): torch and OpenCV have threads that a fork would lose.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    if jobs == 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        jobs, context, import_registering_modules, (REGISTERING_MODULES,)
    ) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def pair_seed(names: Pair, seed: int) -> int:
    """Return the seed of one pair's samples, in the range of 31 bits that all estimators take."""
    text = f"{seed} {names[0]} {names[1]}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def settings_of(
    features: FeatureStore, matches: MatchStore, options: RansacOptions, seed: int
) -> dict[str, Any]:
    """Return all that an estimation of pairs depends on, for a hash."""
    return {
        **asdict(options), **versions(options.estimator), "seed": seed, "version": VERSION,
        "matches": digest_of({**matches.provenance, "features": dict(features.provenance)}),
    }  # fmt: skip


def correspondences_between(
    names: Pair, features: Mapping[str, Features], matches: MatchStore
) -> Correspondences:
    """Return the matched keypoints of a pair.

    Raises:
        ValueError: the pair has no matches.
    """
    return correspondences_of(features[names[0]], features[names[1]], matches.read(*names))


def work_in_chunks(
    pairs: Sequence[AnyPair],
    read: Callable[[AnyPair], Correspondences],
    work: Work[AnyPair, Result],
    pool: Executor | None,
) -> Iterator[Result]:
    """Yield results as they come, in any order.

    Args:
        pairs: what to work on.
        read: gives the matched keypoints of a pair, in this process.
        work: from a chunk of pairs with their keypoints to a result for each.
        pool: processes from :func:`open_pool`; None works here.
    """
    starts = range(0, len(pairs), PAIRS_A_TASK)
    chunks = ([(p, read(p)) for p in pairs[start : start + PAIRS_A_TASK]] for start in starts)
    if pool is None:
        for chunk in chunks:
            yield from work(chunk)
        return
    for future in as_completed([pool.submit(work, chunk) for chunk in chunks]):
        yield from future.result()


def _measure_pairs(
    chunk: Sequence[tuple[PosePair, Correspondences]], options: RansacOptions, seed: int
) -> list[tuple[str, PairResult]]:
    return [(pair.digest(), measure_pair(pair, matched, options, seed)) for pair, matched in chunk]
