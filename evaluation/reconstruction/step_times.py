"""Seconds of each step from photos to refined keypoints, measured one after the other."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from evaluation.extractors.named_extractor import NamedExtractor
from evaluation.reporting.report import Cell, Table
from rekd_hloc.config import MatchConfig
from rekd_hloc.image_listing import list_images
from rekd_hloc.matching.consensus import filter_by_consensus
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.matching.nearest import match_nearest
from rekd_hloc.matching.pairs import EXHAUSTIVE, make_pairs
from rekd_hloc.sfm.database import export_database
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.sfm.refined_features import refine_features
from rekd_hloc.sfm.verification import verify
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Pair

MATCHING = MatchConfig(filter="consensus")
COLUMNS = ("method", "step", "seconds", "ms each", "of extraction %", "done")

Value = TypeVar("Value")


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: of the step.
        seconds: in all.
        count: what it was done for.
        unit: of ``count``, in the plural.
        note: what came of it.
    """

    name: str
    seconds: float
    count: int
    unit: str
    note: str = ""


def time_steps(method: NamedExtractor, photos: Path, folder: Path) -> list[Step]:
    """Extract, match, verify and refine a folder of photos once; extraction is warmed up before.

    Args:
        method: with scales and angles.
        photos: images.
        folder: for the files, which must be empty.

    Raises:
        ValueError: there are fewer than two photos.
    """
    names = list_images(photos)
    if len(names) < 2:
        raise ValueError(f"{photos} has {len(names)} photos; two at least make a track")
    features, matches, database = (
        folder / name for name in ("features.h5", "matches.h5", "database.db")
    )
    method(photos / names[0])
    pairs = make_pairs(names, EXHAUSTIVE)
    extract_s, extracted = _timed(lambda: extract_images(method, photos, features))
    num_keypoints = sum(extracted.num_keypoints.values())
    match_s, _ = _timed(lambda: match_images(features, matches, pairs, MATCHING))
    verify_s, _ = _timed(lambda: _verify(features, matches, photos, pairs, database))
    refine_s, refined = _timed(
        lambda: refine_features(features, matches, photos, folder / "refined.h5", verified=database)
    )
    return [
        Step("extract", extract_s, len(names), "photos", f"{num_keypoints} keypoints"),
        Step("match", match_s, len(pairs), "pairs"),
        _time_consensus(features, pairs),
        Step("verify", verify_s, len(pairs), "pairs"),
        Step(
            *("refine", refine_s, len(names), "photos"),
            f"{refined.num_refined} of {refined.num_in_tracks} keypoints in tracks",
        ),
    ]


def steps_table(method: str, num_photos: int, steps: list[Step]) -> Table:
    """Return one row for each step, with its share of the extraction's time."""
    extraction = next(step.seconds for step in steps if step.name == "extract")
    rows: list[list[Cell]] = [
        [
            method,
            step.name,
            f"{step.seconds:.2f}",
            f"{1000 * step.seconds / step.count:.1f}",
            100 * step.seconds / extraction,
            f"{step.count} {step.unit}" + (f", {step.note}" if step.note else ""),
        ]
        for step in steps
    ]
    return Table(f"steps of {num_photos} photos", COLUMNS, rows)


def _verify(features: Path, matches: Path, photos: Path, pairs: list[Pair], database: Path) -> None:
    with FeatureStore(features) as store, MatchStore(matches) as match_store:
        export_database(database, photos, store, match_store, pairs)
    verify(database, pairs, 0)


def _time_consensus(features: Path, pairs: list[Pair]) -> Step:
    """Time the filter alone, of mutual nearest neighbours, on one thread."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds, counts = [], []
    try:
        with FeatureStore(features) as store:
            for a, b in pairs:
                one, other = store.read(a), store.read(b)
                matches = match_nearest(one.descriptors, other.descriptors)
                taken, _ = _timed(
                    lambda: filter_by_consensus(matches, one.keypoints, other.keypoints)  # noqa: B023
                )
                seconds.append(taken)
                counts.append(len(matches))
    finally:
        torch.set_num_threads(num_threads)
    note = f"{statistics.median(counts):.0f} matches, one thread"
    return Step("consensus alone", sum(seconds), len(pairs), "pairs", note)


def _timed(work: Callable[[], Value]) -> tuple[float, Value]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
