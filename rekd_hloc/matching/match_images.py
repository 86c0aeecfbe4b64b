"""Matching all image pairs of a features file into a matches file.

The pairs may be matched by many workers, while this process alone writes the file.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rekd_hloc.config import MatchConfig
from rekd_hloc.devices import choose_device
from rekd_hloc.matching.match import DEFAULT_CONFIG, Matcher, make_matcher
from rekd_hloc.matching.pair_work import FeatureCache, MatchArrays, PairWork
from rekd_hloc.matching.pairs import unique_pairs
from rekd_hloc.progress import progress_bar
from rekd_hloc.storage.feature_arrays import NO_DESCRIPTORS
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.storage.names import names_by_key
from rekd_hloc.types import Matches, Pair
from rekd_hloc.worker_threads import map_in_threads, num_shares

CPU_WORKERS = 8
"""Pairs at once on a CPU, where its cores are so many."""
REMEDY = "match with filter=none and without guided, or extract oriented features"

MapPairs = Callable[[Callable[[Pair], MatchArrays], Iterable[Pair]], Iterable[MatchArrays | str]]
"""The interface of ``map`` and of ``concurrent.futures.Executor.map``; a text says why a pair could
not be matched."""


@dataclass(frozen=True)
class MatchingSummary:
    """Tell what :func:`match_images` did.

    Attributes:
        num_matches: of each pair, in the order asked for.
        num_resumed: pairs that were in the file before, of the same features.
        num_rematched: pairs that were in the file before and are matched again, because features
            of an image are of another file now.
        seconds: this run took.
        num_fallback: pairs in the file that the filter asked for said too little of, so that
            another one decided; see ``Matches.is_fallback``.
        failed: pairs that could not be matched, and why; only workers that die on them do that.
    """

    num_matches: dict[Pair, int]
    num_resumed: int
    seconds: float
    num_rematched: int = 0
    num_fallback: int = 0
    failed: dict[Pair, str] = field(default_factory=dict)

    @property
    def notes(self) -> dict[str, Any]:
        """Return what a report tells of the pairs, by the report's keys."""
        failed = [[*pair, reason] for pair, reason in self.failed.items()]
        return {
            "num_rematched": self.num_rematched,
            "num_fallback": self.num_fallback,
            **({"failed_pairs": failed} if failed else {}),
        }


def match_images(
    features_path: Path,
    out: Path,
    pairs: Iterable[Pair],
    matching: MatchConfig | Matcher = DEFAULT_CONFIG,
    *,
    overwrite: bool = False,
    device: str = "cpu",
    progress: bool = False,
    map_pairs: MapPairs = map,
) -> MatchingSummary:
    """Match pairs of the images of a features file into an HDF5 file of hloc's form.

    Pairs that are in ``out`` already, in either direction, are not matched again, unless an image
    was extracted anew from another file or mask. Each pair is safe as soon as it is matched: after
    an interruption the same call goes on.

    Args:
        features_path: file of this package or of hloc; it must have what the matcher needs.
        out: file to write, or to go on with if features and options are the same.
        pairs: image names; repeated and reversed pairs count once.
        matching: options of a matcher, or a matcher itself.
        overwrite: delete an old ``out`` first.
        device: torch device to match on, or ``auto``.
        progress: show a bar on stderr.
        map_pairs: applies a function to pairs of names; the builtin ``map`` matches here, on a
            CPU several pairs at once, each on its share of the cores, and
            ``Executor.map`` of threads or processes matches on many workers. Results must come in
            order. Function, pairs and results can be pickled; each worker reads features itself,
            and only the calling process writes ``out``, which is the same file for every ``map``.

    Raises:
        FileNotFoundError: there is no features file.
        ValueError: an unknown image or device, features without angles or scales that the matcher
            needs, descriptors that cannot be compared, or an ``out`` that was made with other
            features or options.
        OSError: ``out`` cannot be written, or the disk is full; what is finished is kept.
    """
    start = time.perf_counter()
    torch_device = choose_device(device)
    if out.resolve() == features_path.resolve():
        raise ValueError(f"features and matches would both be {out}; choose another output")
    matcher = make_matcher(matching) if isinstance(matching, MatchConfig) else matching
    with FeatureStore(features_path) as features:
        unique = unique_pairs(pairs, features.names())
        wanted = frozenset(unique)
        names_by_key(name for pair in unique for name in pair)
        _require_needs(matcher, features, unique)
        provenance = matching_provenance(matcher, features.provenance)
        counts: dict[Pair, tuple[int, bool]] = {}
        failed: dict[Pair, str] = {}
        with MatchStore.resume(out, provenance, overwrite=overwrite) as store:
            names = {name for pair in unique for name in pair}
            sources = {name: features.source_digest(name) for name in names}
            lacking = []
            for pair in unique:
                if store.fits(*pair, _of_pair(sources, pair)):
                    matches = store.read(*pair)
                    counts[pair] = len(matches), matches.is_fallback
                else:
                    lacking.append(pair)
            num_rematched = sum(pair in store for pair in lacking)
            missing = _order_for_cache([store.stored_order(*pair) for pair in lacking])
            if missing:
                store.require_writable()
            cache = FeatureCache(features, torch_device)
            work = PairWork(features_path, matcher, torch_device, cache)
            bar: Iterable[Pair] = progress_bar(missing, "match", unit="pair", shown=progress)
            results: Iterable[MatchArrays | str]
            if map_pairs is map and torch_device.type == "cpu":
                results = map_in_threads(work, missing, num_shares(CPU_WORKERS))
            else:
                results = map_pairs(work, missing)
            for pair, arrays in zip(bar, results, strict=True):
                if isinstance(arrays, str):
                    failed |= {asked: arrays for asked in (pair, pair[::-1]) if asked in wanted}
                    continue
                index, score, is_fallback, count = arrays
                matches = Matches(torch.from_numpy(index), torch.from_numpy(score), is_fallback)
                store.write(*pair, matches, count, sources=_of_pair(sources, pair))
                counts[pair] = len(matches), matches.is_fallback
            done = [pair for pair in unique if pair not in failed]
            for pair in done:
                if pair not in counts:
                    matches = store.read(*pair)
                    counts[pair] = len(matches), matches.is_fallback
    return MatchingSummary(
        {pair: counts[pair][0] for pair in done},
        num_resumed=len(wanted) - len(missing),
        seconds=time.perf_counter() - start,
        num_rematched=num_rematched,
        num_fallback=sum(counts[pair][1] for pair in done),
        failed=failed,
    )


def _of_pair(sources: Mapping[str, str], pair: Pair) -> Pair:
    return sources[pair[0]], sources[pair[1]]


def matching_provenance(matcher: Matcher, features: Mapping[str, str]) -> dict[str, str]:
    """Return what :func:`match_images` records of a file that it makes.

    Args:
        matcher: that is used.
        features: what their file records.
    """
    return {**matcher.provenance, "features_hash": _features_hash(features)}


def _order_for_cache(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs along a Z-shaped curve through the matrix of images (Morton's order).

    Squares of every size are finished one after the other, so whatever number of images the cache
    holds, most images of the next pairs are in it.
    """
    names = dict.fromkeys(name for pair in pairs for name in pair)
    rank = {name: number for number, name in enumerate(names)}
    return sorted(pairs, key=lambda pair: _interleave_bits(rank[pair[0]], rank[pair[1]]))


def _interleave_bits(a: int, b: int) -> int:
    low, high = sorted((a, b))
    return int(f"{low:b}", 4) * 2 + int(f"{high:b}", 4)


def _features_hash(provenance: Mapping[str, str]) -> str:
    """Twelve digits for what the features were made with; other programs do not record it."""
    text = json.dumps(dict(provenance), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12] if provenance else "unknown"


def _require_needs(matcher: Matcher, features: FeatureStore, pairs: Sequence[Pair]) -> None:
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        if not features.has_descriptors(name):
            raise ValueError(f"image {name!r} in {features.path} {NO_DESCRIPTORS}")
        lacks = []
        if "angles" in matcher.needs and not features.has_orientation(name):
            lacks.append("orientation")
        if "scales" in matcher.needs and not features.has_scale(name):
            lacks.append("scale")
        if lacks:
            raise ValueError(
                f"image {name!r} in {features.path} has keypoints without {' and '.join(lacks)}, "
                f"which the matcher needs; {REMEDY}"
            )
