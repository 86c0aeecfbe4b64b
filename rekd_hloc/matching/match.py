"""Matching: of two images' features, or of all image pairs of a features file."""

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from rekd_hloc.config import MatchConfig, config_hash, config_json
from rekd_hloc.matching.consistency import filter_by_orientation, filter_paper
from rekd_hloc.matching.nearest import match_nearest
from rekd_hloc.matching.pairs import Pair, unique_pairs
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Features, Keypoints, Matches

CACHE_BYTES = 1 << 28
"""Features kept while other pairs may need them: 230 images of 2,048 keypoints."""
DEFAULT_CONFIG = MatchConfig()


@dataclass(frozen=True)
class MatchingSummary:
    """What :func:`match_images` did.

    Attributes:
        num_matches: of each pair, in the order asked for.
        num_resumed: pairs that were in the file before.
        seconds: this run took.
    """

    num_matches: dict[Pair, int]
    num_resumed: int
    seconds: float


def match(a: Features, b: Features, config: MatchConfig = DEFAULT_CONFIG) -> Matches:
    """Mutual nearest neighbours of two images that agree on the rotation between them.

    Args:
        a: features with angles (without, use ``MatchConfig(filter="none")``).
        b: likewise, on the same device.
        config: ratio test and filter.

    Raises:
        ValueError: descriptors that cannot be compared or are not of length 1, or values that are
            not finite.

    Example:
        >>> matches = match(extractor("a.jpg"), extractor("b.jpg"))  # doctest: +SKIP
    """
    matches = match_nearest(a.descriptors, b.descriptors, ratio=config.ratio)
    return filter_matches(matches, a.keypoints, b.keypoints, config)


def filter_matches(
    matches: Matches, a: Keypoints, b: Keypoints, config: MatchConfig = DEFAULT_CONFIG
) -> Matches:
    """The matches that the configured orientation filter keeps.

    Raises:
        ValueError: as :func:`rekd_hloc.matching.consistency.filter_by_orientation`.
    """
    if config.filter == "none":
        return matches
    if config.filter == "paper":
        return filter_paper(matches, a.angle, b.angle, tolerance_deg=config.tolerance_deg)
    return filter_by_orientation(
        matches,
        a.angle,
        b.angle,
        tolerance_deg=config.tolerance_deg,
        max_modes=config.max_modes,
        scale_a=a.scale,
        scale_b=b.scale,
        scale_tolerance=config.scale_tolerance,
    )


def match_images(
    features_path: Path,
    out: Path,
    pairs: Iterable[Pair],
    config: MatchConfig = DEFAULT_CONFIG,
    *,
    overwrite: bool = False,
    device: str = "cpu",
    progress: bool = False,
) -> MatchingSummary:
    """Match pairs of the images of a features file into an HDF5 file of hloc's form.

    Pairs that are in ``out`` already, in either direction, are not matched again. Each pair is safe
    as soon as it is matched: after an interruption the same call goes on.

    Args:
        features_path: of this package or of hloc; its angles are needed unless the filter is off.
        out: file to write, or to go on with if features and options are the same.
        pairs: image names; repeated and reversed pairs count once.
        config: ratio test and filter.
        overwrite: delete an old ``out`` first.
        device: torch device to match on.
        progress: show a bar on stderr.

    Raises:
        FileNotFoundError: there is no features file.
        ValueError: an unknown image or device, features without angles, descriptors that cannot be
            compared, or an ``out`` that was made with other features or options.
        OSError: ``out`` cannot be written, or the disk is full; what is finished is kept.
    """
    start = time.perf_counter()
    _require_device(device)
    if out.resolve() == features_path.resolve():
        raise ValueError(f"features and matches would both be {out}; choose another output")
    with FeatureStore(features_path) as features:
        listed = unique_pairs(pairs, features.names())
        if config.filter != "none":
            _require_angles(features, listed)
        provenance = _provenance(config, features.provenance)
        counts: dict[Pair, int] = {}
        with MatchStore.resume(out, provenance, overwrite=overwrite) as store:
            missing = [pair for pair in listed if pair not in store]
            cache = _FeatureCache(features, device)
            ordered = _order_for_cache(missing)
            for a, b in tqdm(ordered, unit="pair", desc="match", disable=not progress):
                counts[a, b] = _match_pair(cache, store, (a, b), config)
            for a, b in listed:
                if (a, b) not in counts:
                    counts[a, b] = len(store.read(a, b))
    num_matches = {pair: counts[pair] for pair in listed}
    num_resumed = len(listed) - len(missing)
    return MatchingSummary(num_matches, num_resumed, time.perf_counter() - start)


class _FeatureCache:
    """Features of images in use, on one device; those unused for longest go first."""

    def __init__(self, store: FeatureStore, device: str) -> None:
        self._store = store
        self._device = device
        self._kept: OrderedDict[str, Features] = OrderedDict()
        self._num_bytes = 0

    def __getitem__(self, name: str) -> Features:
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        features = self._store.read(name).to(self._device)
        self._kept[name] = features
        self._num_bytes += _num_bytes(features)
        while self._num_bytes > CACHE_BYTES and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._num_bytes -= _num_bytes(dropped)
        return features


def _num_bytes(features: Features) -> int:
    keypoints = features.keypoints
    tensors = (keypoints.xy, keypoints.scale, keypoints.angle, keypoints.score)
    return sum(t.numel() * t.element_size() for t in (*tensors, features.descriptors))


def _match_pair(cache: _FeatureCache, store: MatchStore, pair: Pair, config: MatchConfig) -> int:
    a, b = (cache[name] for name in pair)
    try:
        matches = match(a, b, config)
    except ValueError as error:
        raise ValueError(f"images {pair[0]!r} and {pair[1]!r}: {error}") from error
    store.write(*pair, matches.to("cpu"), len(a))
    return len(matches)


def _order_for_cache(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs along a Z-shaped curve through the matrix of images (Morton's order).

    Squares of every size are finished one after the other, so whatever number of images the cache
    holds, most are found there.
    """
    names = dict.fromkeys(name for pair in pairs for name in pair)
    rank = {name: number for number, name in enumerate(names)}
    return sorted(pairs, key=lambda pair: _interleave_bits(rank[pair[0]], rank[pair[1]]))


def _interleave_bits(a: int, b: int) -> int:
    low, high = sorted((a, b))
    return int(f"{low:b}", 4) * 2 + int(f"{high:b}", 4)


def _provenance(config: MatchConfig, features: Mapping[str, str]) -> dict[str, str]:
    """What a matches file records; features of another program leave no trace to compare."""
    text = json.dumps(dict(features), sort_keys=True)
    return {
        "config": config_json(config),
        "config_hash": config_hash(config),
        "features_hash": hashlib.sha256(text.encode()).hexdigest()[:12] if features else "unknown",
    }


def _require_angles(features: FeatureStore, pairs: Sequence[Pair]) -> None:
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        if not features.has_orientation(name):
            raise ValueError(
                f"image {name!r} in {features.path} has keypoints without orientation, which the "
                "orientation filter needs; match with filter=none, or extract oriented features"
            )


def _require_device(name: str) -> None:
    try:
        torch.zeros(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {name!r} here; use cpu, cuda or cuda:0") from error
