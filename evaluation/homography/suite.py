"""Runs methods over image pairs by one protocol, and makes its tables and curves.

Sequences are independent: they may run in several threads, and what is extracted is kept.
"""

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from evaluation.command_line import PAPER_FILTER
from evaluation.extractors.extraction import extract_by_content, image_key, image_size
from evaluation.extractors.match_refiner import MatchRefiner
from evaluation.extractors.named_extractor import REFINED
from evaluation.extractors.registry import NamedExtractor
from evaluation.homography.frames import (
    Placement,
    place_image,
    read_frame,
    render_frame,
    to_frame,
)
from evaluation.homography.homographies import HomographyPair
from evaluation.homography.measures import THRESHOLDS_PX, Metrics, PairInput
from evaluation.homography.protocols import Column, Protocol
from evaluation.homography.release import kind_of
from evaluation.reporting.curves import FILTERED, Plot
from evaluation.reporting.report import Table
from rekd_hloc.config import MatchConfig
from rekd_hloc.refinement.pyramid import ImagePyramid
from rekd_hloc.types import Features


@dataclass(frozen=True)
class PairResult:
    """Metrics of one method on one image pair."""

    sequence: str
    pair: str
    metrics: Metrics


@dataclass(frozen=True)
class Suite:
    """What all methods of a run share."""

    protocol: Protocol
    pairs: Sequence[HomographyPair]
    num_used: int
    cache_dir: Path
    num_threads: int = 1
    filter: MatchConfig = PAPER_FILTER


def run_extractor(
    suite: Suite, method: NamedExtractor, *, refine: bool = False
) -> list[PairResult]:
    """Measure one extractor on all pairs, in their order; each image is extracted once.

    Args:
        suite: what to measure.
        method: whose features.
        refine: whether matches are refined before they are measured.
    """
    by_sequence: dict[str, list[HomographyPair]] = {}
    for pair in suite.pairs:
        by_sequence.setdefault(pair.sequence, []).append(pair)

    def run_sequence(pairs: Sequence[HomographyPair]) -> list[PairResult]:
        return _run_sequence(suite, method, pairs, refine)

    with ThreadPoolExecutor(suite.num_threads) as pool:
        done = pool.map(run_sequence, by_sequence.values())
        label = method.name + (REFINED if refine else "")
        bar = tqdm(done, label, len(by_sequence), unit="sequence", disable=None)
        return [result for results in bar for result in results]


def _run_sequence(
    suite: Suite, method: NamedExtractor, pairs: Sequence[HomographyPair], refine: bool
) -> list[PairResult]:
    framed = _extract_frames(suite, method, pairs)
    pyramids = {
        path: ImagePyramid.of(read_frame(path, place))
        for path, (_, place) in framed.items()
        if refine
    }
    results = []
    for pair in pairs:
        (a, place_a), (b, place_b) = framed[pair.path_a], framed[pair.path_b]
        b_from_a = place_b.frame_from_image @ pair.b_from_a @ place_a.frame_from_image.inverse()
        refiner = (
            MatchRefiner(pyramids[pair.path_a], pyramids[pair.path_b], method) if refine else None
        )
        given = PairInput(
            a, b, b_from_a, suite.num_used, method.has_orientation, suite.filter, refiner
        )
        results.append(PairResult(pair.sequence, pair.name, suite.protocol.measure(given)))
    return results


def _extract_frames(
    suite: Suite, method: NamedExtractor, pairs: Sequence[HomographyPair]
) -> dict[Path, tuple[Features, Placement]]:
    """Return features of the images of one sequence, in the frame of the protocol."""
    frame = suite.protocol.frame
    paths = list(dict.fromkeys(path for pair in pairs for path in (pair.path_a, pair.path_b)))
    placements = {path: place_image(image_size(path), frame) for path in paths}
    if method.is_stored:
        return {path: (to_frame(method(path), place), place) for path, place in placements.items()}
    with tempfile.TemporaryDirectory() as scratch:
        images = {image_key(path): path for path in paths}
        if frame != "original":
            images = {key: Path(scratch) / f"{i}.png" for i, key in enumerate(images)}
            for path, framed in zip(paths, images.values(), strict=True):
                render_frame(path, placements[path], framed)
        label = f"{frame}-{pairs[0].sequence}"
        features = extract_by_content(images, method, suite.cache_dir, label=label)
    return {p: (features[k], placements[p]) for p, k in zip(paths, images, strict=True)}


def make_tables(
    protocol: Protocol,
    results: Mapping[str, Sequence[PairResult]],
    split: str,
    *,
    precise: bool = False,
) -> list[Table]:
    """The protocol's table for the split, and for its view and illum sequences if both occur.

    With ``precise`` they are those of refined matches, where the protocol has other columns then.
    """
    tables = []
    columns = protocol.precise if precise else protocol.columns
    kind = "precision, " if precise else ""
    for part in _parts(results, split):
        chosen = {name: select_kind(rows, part) for name, rows in results.items()}
        one = next(iter(chosen.values()))
        count = len({result.sequence for result in one})
        title = f"{part or split}: {kind}protocol {protocol.name}"
        title += f", sequences: {count}, pairs: {len(one)}"
        rows = [
            [name, *read_columns(columns, protocol.summarise([r.metrics for r in measured]))]
            for name, measured in chosen.items()
        ]
        tables.append(Table(title, ["method", *(c.header for c in columns)], rows))
    return tables


def make_sequence_rows(
    protocol: Protocol, results: Mapping[str, Sequence[PairResult]]
) -> tuple[list[str], list[list[str | float | None]]]:
    """Header and rows of the CSV: one row for each method and sequence, accuracy at 1..10 px."""
    columns = csv_columns(protocol)
    rows: list[list[str | float | None]] = []
    for name, measured in results.items():
        for sequence in dict.fromkeys(result.sequence for result in measured):
            metrics = [r.metrics for r in measured if r.sequence == sequence]
            means = protocol.summarise(metrics)
            values = [_read_column(column, means) for column in columns]
            rows.append([protocol.name, name, sequence, kind_of(sequence), len(metrics), *values])
    header = ["protocol", "method", "sequence", "kind", "pairs"]
    return header + [column.header for column in columns], rows


def csv_columns(protocol: Protocol) -> list[Column]:
    """Return the table's columns, with matching accuracy at every threshold instead of a few."""
    columns: dict[str, Column] = {}
    for column in protocol.columns:
        chosen = [column]
        if column.key in ("mma", "mma_filtered"):
            stem = column.header.split("@")[0]
            chosen = [
                Column(f"{stem}@{threshold:.0f}", column.key, index)
                for index, threshold in enumerate(THRESHOLDS_PX.tolist())
            ]
        columns |= {one.header: one for one in chosen}
    return list(columns.values())


def make_plots(
    protocol: Protocol, results: Mapping[str, Sequence[PairResult]], split: str
) -> list[Plot]:
    """Return the protocol's curve over 1..10 px, where it has one, for the split and its parts."""
    if protocol.curve is None:
        return []
    key, label = protocol.curve
    plots = []
    for part in _parts(results, split):
        curves: dict[str, list[float]] = {}
        for name, rows in results.items():
            means = protocol.summarise([r.metrics for r in select_kind(rows, part)])
            for suffix, mark in (("", ""), ("_filtered", FILTERED)):
                values = means.get(key + suffix)
                if isinstance(values, list):
                    curves[name + mark] = [100 * value for value in values]
        starred = " (dotted: orientation filter)" if any(map(_is_filtered, curves)) else ""
        title = f"protocol {protocol.name}, {part or split}{starred}"
        x = THRESHOLDS_PX.tolist()
        plots.append(
            Plot(f"curve-{part or split}", title, "threshold, px", f"{label}, %", x, curves)
        )
    return plots


def _is_filtered(label: str) -> bool:
    return label.endswith(FILTERED)


def select_kind(rows: Sequence[PairResult], kind: str) -> list[PairResult]:
    """Return results on sequences of that kind; all for the empty name."""
    return [row for row in rows if not kind or kind_of(row.sequence) == kind]


def read_columns(columns: Sequence[Column], means: Metrics) -> list[str | float | None]:
    """Return the metrics that a table shows, shares in per cent."""
    return [_read_column(column, means) for column in columns]


def _read_column(column: Column, means: Metrics) -> float | None:
    value = means.get(column.key)
    if isinstance(value, list):
        assert column.index is not None
        value = value[column.index]
    if value is None:
        return None
    return float(value) * (100 if column.percent else 1)


def _parts(results: Mapping[str, Sequence[PairResult]], split: str) -> list[str]:
    """The whole split (the empty name), then its view and illum sequences if it has more kinds."""
    kinds = {kind_of(row.sequence) for rows in results.values() for row in rows}
    if len(kinds) < 2:
        return [""]
    return ["", *(kind for kind in ("view", "illum") if kind in kinds)]
