"""One pair of images is matched, from features that are kept for other pairs; on any worker."""

import threading
import uuid
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rekd_hloc.matching.match import Matcher
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Features, Pair

CACHE_BYTES = 1 << 28
"""Features that a worker keeps for other pairs: 230 images of 2,048 keypoints."""

MatchArrays = tuple[NDArray[np.int64], NDArray[np.float32], bool, int]
"""Index and score of the matches of a pair, whether they are a fallback, and the number of
keypoints of its first image."""


class FeatureCache:
    """Features of images in use, on one device, for several threads; the oldest go first."""

    def __init__(self, store: FeatureStore, device: torch.device) -> None:
        self.store = store
        self._device = device
        self._features: OrderedDict[str, Features] = OrderedDict()
        self._num_bytes = 0
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Features:
        with self._lock:
            if name in self._features:
                self._features.move_to_end(name)
                return self._features[name]
            features = self.store.read(name).to(self._device)
            self._features[name] = features
            self._num_bytes += _num_bytes(features)
            while self._num_bytes > CACHE_BYTES and len(self._features) > 1:
                _, dropped = self._features.popitem(last=False)
                self._num_bytes -= _num_bytes(dropped)
            return features


def match_pair_of(matcher: Matcher, pair: Pair, a: Features, b: Features) -> MatchArrays:
    """Match one pair, whose features are on one device.

    Raises:
        ValueError: they cannot be compared; the message names the images.
    """
    try:
        matches = matcher(a, b).to("cpu")
    except ValueError as error:
        raise ValueError(f"images {pair[0]!r} and {pair[1]!r}: {error}") from error
    return matches.index.numpy(), matches.score.numpy(), matches.is_fallback, len(a)


class PairWork:
    """Matches one pair; in another process, where it arrives by pickle, it opens the file anew."""

    _opened: tuple[str, FeatureCache] | None = None
    """The cache that a worker process keeps between pairs, and the run that it is for."""

    def __init__(
        self,
        features_path: Path,
        matcher: Matcher,
        device: torch.device,
        cache: FeatureCache | None = None,
        run: str | None = None,
    ) -> None:
        self._features_path = features_path
        self.matcher = matcher
        self._device = device
        self._cache = cache
        self._run = run or uuid.uuid4().hex

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (self._features_path, self.matcher, self._device, None, self._run)
        return (type(self), arguments)

    def __call__(self, pair: Pair) -> MatchArrays:
        """Match the images of two names."""
        return match_pair_of(self.matcher, pair, *(self.features(name) for name in pair))

    def features(self, name: str) -> Features:
        """Return the features of an image, on the device to match on."""
        return (self._cache or self._worker_cache())[name]

    def _worker_cache(self) -> FeatureCache:
        opened = PairWork._opened
        if opened is None or opened[0] != self._run:
            if opened is not None:
                opened[1].store.close()
            opened = (self._run, FeatureCache(FeatureStore(self._features_path), self._device))
            PairWork._opened = opened
        return opened[1]


def _num_bytes(features: Features) -> int:
    keypoints = features.keypoints
    tensors = (keypoints.xy, keypoints.scale, keypoints.angle, keypoints.score)
    return sum(t.numel() * t.element_size() for t in (*tensors, features.descriptors))
