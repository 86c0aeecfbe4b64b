"""Many image pairs in several processes: their keypoints are read here and handed on in chunks."""

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, TypeVar

from evaluation.extractors.extraction import digest_of
from evaluation.relative_pose.correspondences import Correspondences, correspondences_of
from evaluation.relative_pose.two_view import (
    REGISTERING_MODULES,
    RansacOptions,
    import_registering_modules,
    versions,
)
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Features

PAIRS_A_TASK = 16
"""Pairs that a process is given at once."""
VERSION = 1
"""Part of every hash: to be raised when the same inputs are to give other results."""

AnyPair = TypeVar("AnyPair")
Result = TypeVar("Result")
Work = Callable[[Sequence[tuple[AnyPair, Correspondences]]], list[Result]]
"""What is done with a chunk, perhaps in another process: it must be a function of a module."""


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
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        jobs, context, import_registering_modules, (REGISTERING_MODULES,)
    ) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pair_seed(names: tuple[str, str], seed: int) -> int:
    """The seed of one pair's samples, in the range of 31 bits that all estimators take."""
    text = f"{seed} {names[0]} {names[1]}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def settings_of(
    features: FeatureStore, matches: MatchStore, options: RansacOptions, seed: int
) -> dict[str, Any]:
    """All that an estimation of pairs depends on, for a hash."""
    return {
        **asdict(options), **versions(options.estimator), "seed": seed, "version": VERSION,
        "matches": digest_of({**matches.provenance, "features": dict(features.provenance)}),
    }  # fmt: skip


def correspondences_between(
    names: tuple[str, str], features: Mapping[str, Features], matches: MatchStore
) -> Correspondences:
    """The matched keypoints of a pair.

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
    """Results as they come, in any order.

    Args:
        pairs: what to work on.
        read: the matched keypoints of a pair, in this process.
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
