"""The two jobs of workers: to extract photos, and to match pairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rekd_hloc.cluster.sent_images import SentImage, extract_sent
from rekd_hloc.cluster.sent_weights import SentExtractor, SentMatcher
from rekd_hloc.cluster.worker import describe, leave_if_poisoned
from rekd_hloc.devices import choose_device
from rekd_hloc.matching.match import Matcher
from rekd_hloc.matching.pair_work import MatchArrays, match_pair_of
from rekd_hloc.sfm.image_work import FeatureArrays, ImageExtractor, ImageFile, ImageWork
from rekd_hloc.types import Features, Keypoints, Pair

SentFeatures = tuple[str, dict[str, NDArray[np.generic]]]
"""Name of an image, and the arrays of its features; plain arrays travel by plain copying."""


@dataclass(frozen=True)
class ImageJob:
    """Extract photos, which arrive as bytes, or as paths where workers see the same files."""

    extractor: SentExtractor | ImageExtractor

    def open(self, device: str) -> Callable[..., FeatureArrays | str]:
        """Load the extractor; see :class:`rekd_hloc.cluster.worker.Job`."""
        extractor: Any = self.extractor
        if isinstance(extractor, SentExtractor):
            extractor = extractor.load(device)
        work = ImageWork(extractor)

        def extract(image: ImageFile | SentImage) -> FeatureArrays | str:
            try:
                return work(image) if isinstance(image, ImageFile) else extract_sent(work, image)
            except Exception as error:  # of one photo, whatever it is: the others go on
                leave_if_poisoned(error)
                reason = f"{type(error).__name__}: {error}"
                return f"extraction failed on worker {describe().host}: {reason}"

        return extract


@dataclass(frozen=True)
class PairJob:
    """Match pairs of images whose features arrive with them."""

    matcher: SentMatcher | Matcher

    def open(self, device: str) -> Callable[..., list[MatchArrays]]:
        """Load the matcher; see :class:`rekd_hloc.cluster.worker.Job`."""
        matcher: Any = self.matcher
        if isinstance(matcher, SentMatcher):
            matcher = matcher.load()
        torch_device = choose_device(device)

        def match_all(pairs: Sequence[Pair], *sent: SentFeatures) -> list[MatchArrays]:
            by_name = {name: _to_features(arrays).to(torch_device) for name, arrays in sent}
            return [
                match_pair_of(matcher, pair, by_name[pair[0]], by_name[pair[1]]) for pair in pairs
            ]

        return match_all


def _to_features(arrays: dict[str, NDArray[np.generic]]) -> Features:
    """Return the features of arrays, copied where an engine shares them with other workers."""
    tensors = {
        name: torch.from_numpy(array if array.flags.writeable else array.copy())
        for name, array in arrays.items()
    }
    width, height = tensors.pop("image_size").tolist()
    descriptors = tensors.pop("descriptors")
    return Features(Keypoints(**tensors), descriptors, (width, height))
