"""Matching the features of two images, by a matcher that a configuration names.

A matcher is any :class:`Matcher`. To add one, write its file, add its name to the choices of
``MatchConfig.filter`` and one line to :data:`MATCHERS`.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

from rekd_hloc.config import MatchConfig, config_hash, config_json
from rekd_hloc.matching.adalam import match_adalam
from rekd_hloc.matching.consensus import filter_by_consensus
from rekd_hloc.matching.consistency import filter_by_orientation, filter_paper
from rekd_hloc.matching.guided import add_guided
from rekd_hloc.matching.match_network import (
    filter_by_network,
    load_match_network,
    resolve_match_network,
)
from rekd_hloc.matching.nearest import match_nearest, scan_nearest
from rekd_hloc.names import counted
from rekd_hloc.types import Features, Keypoints, Matches
from rekd_hloc.weight_files import weights_hash

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = MatchConfig()
MIN_CONSENSUS = 8
"""Matches with support below which consensus says nothing of an image pair."""
FALLBACK_RATIO = 0.9
"""Of the ratio test that then takes its place."""


@runtime_checkable
class Matcher(Protocol):
    """Features of two images to matches; what :func:`rekd_hloc.match_images` runs."""

    @property
    def provenance(self) -> Mapping[str, str]:
        """Return what a matches file records: all that changes the matches, as text."""

    @property
    def needs(self) -> Collection[Literal["angles", "scales"]]:
        """Return what the keypoints of a features file must have for this matcher."""

    def __call__(self, a: Features, b: Features) -> Matches:
        """Return matches from image ``a`` to image ``b``, whose features are on the same device.

        Each keypoint of ``a`` is matched at most once.
        """


@dataclass(frozen=True)
class _ConfiguredMatcher:
    """What the matchers of a configuration have in common."""

    config: MatchConfig

    @property
    def provenance(self) -> dict[str, str]:
        """Return the configuration and its hash; weights are told by their own, not by a path."""
        config = replace(self.config, network=MatchConfig.network)
        return {"config": config_json(config), "config_hash": config_hash(config)}


@dataclass(frozen=True)
class NearestMatcher(_ConfiguredMatcher):
    """Mutual nearest neighbours that pass the configured ratio test and orientation filter."""

    @property
    def needs(self) -> tuple[Literal["angles"], ...]:
        """Return angles, unless the filter is off."""
        return () if self.config.filter == "none" else ("angles",)

    def __call__(self, a: Features, b: Features) -> Matches:
        """Match two images; see :func:`match`."""
        matches = match_nearest(a.descriptors, b.descriptors, ratio=self.config.ratio)
        return filter_matches(matches, a.keypoints, b.keypoints, self.config)


@dataclass(frozen=True)
class ConsensusMatcher(_ConfiguredMatcher):
    """Mutual nearest neighbours with enough support; see :mod:`rekd_hloc.matching.consensus`.

    Where fewer than ``MIN_CONSENSUS`` matches have it, as in pairs with few matches, a ratio test
    and the density filter decide instead.
    """

    @property
    def needs(self) -> tuple[Literal["angles", "scales"], ...]:
        """Consensus needs angles and scales."""
        return ("angles", "scales")

    def __call__(self, a: Features, b: Features) -> Matches:
        """Match two images."""

        def pass_ratio_test() -> Matches:
            ratio = min(self.config.ratio, FALLBACK_RATIO)
            return match_nearest(a.descriptors, b.descriptors, ratio=ratio)

        matches = match_nearest(a.descriptors, b.descriptors, ratio=self.config.ratio)
        return _filter_by_consensus(matches, a.keypoints, b.keypoints, self.config, pass_ratio_test)


@dataclass(frozen=True)
class AdalamMatcher(_ConfiguredMatcher):
    """AdaLAM, which takes none of the other options; see :mod:`rekd_hloc.matching.adalam`."""

    @property
    def provenance(self) -> dict[str, str]:
        """Return the configuration and its hash, and the version of kornia."""
        import kornia

        return {**super().provenance, "kornia": kornia.__version__}

    @property
    def needs(self) -> tuple[Literal["angles", "scales"], ...]:
        """AdaLAM needs angles and scales."""
        return ("angles", "scales")

    def __call__(self, a: Features, b: Features) -> Matches:
        """Match two images; see :func:`rekd_hloc.matching.adalam.match_adalam`."""
        return match_adalam(a, b)


@dataclass(frozen=True)
class NetworkMatcher(_ConfiguredMatcher):
    """Mutual nearest neighbours that a network holds to be right.

    See :mod:`rekd_hloc.matching.match_network`. Scores are probabilities.

    Raises:
        FileNotFoundError, ValueError: as
            :func:`rekd_hloc.matching.match_network.load_match_network`.
    """

    def __post_init__(self) -> None:
        load_match_network(self.config.network)  # a mistake is told before the work

    @property
    def provenance(self) -> dict[str, str]:
        """Return the configuration and its hash, and the hash of the weights."""
        path = resolve_match_network(self.config.network)
        return {**super().provenance, "match_network": weights_hash(path)}

    @property
    def needs(self) -> tuple[Literal["angles", "scales"], ...]:
        """The network needs angles and scales."""
        return ("angles", "scales")

    def __call__(self, a: Features, b: Features) -> Matches:
        """Match two images."""
        scan = scan_nearest(a.descriptors, b.descriptors)
        judge = load_match_network(self.config.network)
        return filter_by_network(scan.mutual(self.config.ratio), a, b, judge, scan)


@dataclass(frozen=True)
class GuidedMatcher(_ConfiguredMatcher):
    """Another matcher, and what its matches lead to; see :mod:`rekd_hloc.matching.guided`."""

    first: Matcher

    @property
    def provenance(self) -> dict[str, str]:
        """Return what the first matcher records, and the configuration that says ``guided``."""
        return {**self.first.provenance, **super().provenance}

    @property
    def needs(self) -> tuple[Literal["angles", "scales"], ...]:
        """Maps of surroundings need angles and scales."""
        return ("angles", "scales")

    def __call__(self, a: Features, b: Features) -> Matches:
        """Match two images."""
        return add_guided(self.first(a, b), a, b)


MATCHERS: dict[str, Callable[[MatchConfig], Matcher]] = {
    "none": NearestMatcher,
    "paper": NearestMatcher,
    "density": NearestMatcher,
    "consensus": ConsensusMatcher,
    "adalam": AdalamMatcher,
    "network": NetworkMatcher,
}
"""What makes the matcher of a configuration, for each of the choices of ``MatchConfig.filter``."""
FILTERS_OF_NEIGHBOURS = frozenset(("paper", "density", "consensus", "network"))
"""Those that keep a part of the mutual nearest neighbours."""


def make_matcher(config: MatchConfig = DEFAULT_CONFIG) -> Matcher:
    """Make the matcher that a configuration names."""
    first = MATCHERS[config.filter](replace(config, guided=False))
    return GuidedMatcher(config, first) if config.guided else first


def match(a: Features, b: Features, config: MatchConfig = DEFAULT_CONFIG) -> Matches:
    """Match two images: mutual nearest neighbours that agree on the rotation between the images.

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
    return make_matcher(config)(a, b)


def filter_matches(
    matches: Matches, a: Keypoints, b: Keypoints, config: MatchConfig = DEFAULT_CONFIG
) -> Matches:
    """Return the matches that the configured filter keeps.

    Where fewer than ``MIN_CONSENSUS`` have support, consensus leaves the image pair to the density
    filter.

    Args:
        matches: of any matcher, at most one for each keypoint.
        a: all keypoints of image a, with true angles, and true scales for consensus.
        b: likewise of image b.
        config: of which ``ratio`` is not looked at.

    Raises:
        ValueError: as :func:`rekd_hloc.matching.consistency.filter_by_orientation`, or the filter
            is ``adalam``, which finds the matches itself, or ``network``, which needs descriptors:
            see :func:`rekd_hloc.matching.match_network.filter_by_network`; or matching is
            ``guided``: see :func:`rekd_hloc.matching.guided.add_guided`.
    """
    if config.guided:
        raise ValueError("guided matching needs descriptors too; call add_guided afterwards")
    if config.filter == "none":
        return matches
    if config.filter == "paper":
        return filter_paper(matches, a.angle, b.angle, tolerance_deg=config.tolerance_deg)
    if config.filter == "adalam":
        raise ValueError("filter adalam finds matches itself; to filter others use density")
    if config.filter == "network":
        raise ValueError("filter network needs descriptors too; call filter_by_network")
    if config.filter == "consensus":
        return _filter_by_consensus(matches, a, b, config, lambda: matches)
    return _filter_by_density(matches, a, b, config)


def describe_fallback(num_fallback: int, num_pairs: int) -> str:
    """Return a line about image pairs that consensus left to another filter; none gives no text."""
    if not num_fallback:
        return ""
    return (
        f"{num_fallback} of {counted(num_pairs, 'pair')} had too little support for consensus; "
        "ratio test and orientation filter decided"
    )


def _filter_by_consensus(
    matches: Matches,
    a: Keypoints,
    b: Keypoints,
    config: MatchConfig,
    find_likely: Callable[[], Matches],
) -> Matches:
    """Keep what has support; where that is too little, what the density filter keeps of others."""
    supported = filter_by_consensus(matches, a, b)
    if len(supported) >= MIN_CONSENSUS or len(matches) == 0:
        return supported
    logger.debug(
        "only %d of %d matches have support; the orientation filter decides",
        len(supported), len(matches),
    )  # fmt: skip
    return replace(_filter_by_density(find_likely(), a, b, config), is_fallback=True)


def _filter_by_density(
    matches: Matches, a: Keypoints, b: Keypoints, config: MatchConfig
) -> Matches:
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
