"""Matches of image pairs by the package's own loop, in a file that a hash of all options names."""

import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from evaluation.extractors import light_glue
from evaluation.extractors.extraction import digest_of
from rekd_hloc.config import MatchConfig
from rekd_hloc.devices import choose_device
from rekd_hloc.matching.match import Matcher, make_matcher
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Pair

FILTERS = ("none", "paper", "density", "scale", "consensus", "adalam", "network")
"""Those of ``MatchConfig``, and ``scale``: density of rotations and scale ratios together."""
OLD_FILTERS = {"ours": "density"}
"""Names that filters had before; they are still read."""
SCALE_TOLERANCE = 2.0
"""Of the filter ``scale``: an octave to both sides of the most common scale ratio."""


@dataclass(frozen=True)
class Matched:
    """What :func:`match_pairs` did.

    Attributes:
        path: file of matches by image pair, in hloc's schema.
        num_matched: pairs that this run matched; the others were there.
        seconds: that this run took.
    """

    path: Path
    num_matched: int
    seconds: float


def match_config(
    ratio: float = 1.0, filter_name: str = "none", *, guided: bool = False
) -> MatchConfig:
    """Return the package's options for a ratio test and one of ``FILTERS``.

    Args:
        ratio: largest distance ratio best/second, tested from both images; 1 for none.
        filter_name: one of ``FILTERS`` or ``OLD_FILTERS``; ``adalam`` (Cavalli et al., 2020) is a
            matcher with a ratio test of its own.
        guided: whether the matches that pass lead to others.

    Raises:
        ValueError: there is no such filter, or the ratio is out of range.
    """
    name = OLD_FILTERS.get(filter_name, filter_name)
    if name not in FILTERS:
        raise ValueError(f"no filter {filter_name!r}; there are {', '.join(FILTERS)}")
    if name == "scale":
        return MatchConfig(
            ratio=ratio, filter="density", scale_tolerance=SCALE_TOLERANCE, guided=guided
        )
    return MatchConfig(ratio=ratio, filter=cast(Any, name), guided=guided)


def match_label(config: MatchConfig) -> str:
    """Return the options in short, for tables: ``nn ratio 0.9 + density``."""
    guided = " + guided" if config.guided else ""
    if config.filter == "adalam":
        return f"adalam{guided}"
    ratio = "" if config.ratio == 1 else f" ratio {config.ratio:g}"
    name = "scale" if config.scale_tolerance else config.filter
    return f"nn{ratio}" + ("" if name == "none" else f" + {name}") + guided


def without_orientation(config: MatchConfig) -> MatchConfig:
    """Return the same without a filter of rotations alone.

    AdaLAM, consensus and the network look at positions and scales too, and take angles that are all
    zero.
    """
    if config.filter in ("adalam", "consensus", "network"):
        return config
    return replace(config, filter="none", scale_tolerance=0.0)


def describe_ratios(configs: Iterable[MatchConfig]) -> str:
    """Return the ratios in words: ``none, 0.8, 0.9``."""
    return ", ".join("none" if c.ratio == 1 else f"{c.ratio:g}" for c in configs)


def match_pairs(
    features_path: Path,
    pairs: Iterable[Pair],
    config: MatchConfig,
    folder: Path,
    *,
    jobs: int = 1,
    device: str = "cpu",
) -> Matched:
    """Match the pairs that are not in the file of these features and options yet.

    Args:
        features_path: file with the features of all images.
        pairs: image names.
        config: how to match, unless the features are of a method with LightGlue.
        folder: for the file; its name holds a hash of features and options.
        jobs: pairs at once, in threads.
        device: where descriptors are compared.

    Raises:
        ValueError: an image is not in the file, or its features cannot be matched so.
        FileNotFoundError: there is no features file.
        OSError: the matches cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FeatureStore(features_path) as store:
        learned = store.provenance.get(light_glue.KEY)
        if learned and config.guided:
            raise ValueError("LightGlue's matches lead to no others; leave --guided out")
        matcher: Matcher = (
            light_glue.load_pair_matcher(learned, str(choose_device(device)))
            if learned
            else make_matcher(config)
        )
        digest = digest_of({**matcher.provenance, "features": dict(store.provenance)})
    path = folder / f"{features_path.stem[:80]}-{digest}.h5"
    with ThreadPoolExecutor(jobs) as pool:
        try:
            summary = match_images(
                features_path, path, pairs, matcher, device=device, progress=sys.stderr.isatty(),
                map_pairs=map if jobs == 1 else pool.map,
            )  # fmt: skip
        finally:
            pool.shutdown(cancel_futures=True)
    num_matched = len(summary.num_matches) - summary.num_resumed
    return Matched(path, num_matched, summary.seconds)
