"""Two images to matches in one call, in the manner of LightGlue's ``match_pair``."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from rekd_hloc.config import RECONSTRUCTION_MATCHING, MatchConfig
from rekd_hloc.features.batches import pad_features
from rekd_hloc.matching.match import make_matcher
from rekd_hloc.types import Features


def match_pair(
    extractor: Callable[[Any], Features],
    image0: Any,
    image1: Any,
    config: MatchConfig = RECONSTRUCTION_MATCHING,
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Extract and match two images.

    Args:
        extractor: an :class:`rekd_hloc.Extractor`.
        image0: whatever the extractor takes: a path, an array or a tensor.
        image1: the same.
        config: how to match; by default as ``rekd-hloc match`` and ``reconstruct`` do.

    Returns:
        Features of both images as :meth:`rekd_hloc.Extractor.extract` gives them, without the batch
        axis, and of their matches ``matches`` (rows of keypoint numbers), ``scores`` and
        ``matches0`` (for each keypoint of ``image0`` that of ``image1``, or -1).

    Raises:
        ValueError, FileNotFoundError: an image that cannot be read.
    """
    found = [extractor(image) for image in (image0, image1)]
    matches = make_matcher(config)(*found)
    best = matches.index.new_full((len(found[0]),), -1)
    best[matches.index[:, 0]] = matches.index[:, 1]
    features0, features1 = (
        {name: rows[0] for name, rows in pad_features([part]).to_dict().items()} for part in found
    )
    return (
        features0,
        features1,
        {"matches": matches.index, "scores": matches.score, "matches0": best},
    )
