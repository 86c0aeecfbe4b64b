"""Matches of image pairs from a features file, kept in a file that a hash of everything names."""

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import kornia
from tqdm import tqdm

from evaluation.extractors.extraction import digest_of
from rekd_hloc.config import MatchConfig
from rekd_hloc.matching.adalam import match_adalam
from rekd_hloc.matching.match import match
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Features, Matches, Pair

Filter = Literal["none", "paper", "ours", "scale"]

FILTERS: tuple[Filter, ...] = ("none", "paper", "ours", "scale")
MATCHERS = ("nn", "adalam")
SCALE_TOLERANCE = 2.0
"""Of the filter ``scale``: an octave to both sides of the most common scale ratio."""
PAIRS_IN_FLIGHT = 64
"""Pairs handed to the threads at once, so that finished matches do not pile up in memory."""


@dataclass(frozen=True)
class MatchSettings:
    """How the features of two images are matched."""

    matcher: str = "nn"
    """``nn``, mutual nearest neighbours; or ``adalam`` (Cavalli et al., 2020; kornia's)."""
    ratio: float = 1.0
    """Largest distance ratio best/second, tested from both images (``both ways``); 1 for none."""
    filter: Filter = "none"
    """Orientation filter: none, the paper's, this project's, or that with scales too."""

    def __post_init__(self) -> None:
        if self.matcher not in MATCHERS:
            raise ValueError(f"no matcher {self.matcher!r}; there are {', '.join(MATCHERS)}")
        if self.filter not in FILTERS:
            raise ValueError(f"no filter {self.filter!r}; there are {', '.join(FILTERS)}")
        if self.matcher == "adalam" and (self.ratio != 1 or self.filter != "none"):
            raise ValueError("adalam has a ratio test and filter of its own; leave ours out")
        self.config()

    def config(self) -> MatchConfig:
        """The same for :func:`rekd_hloc.matching.match.match`."""
        if self.filter == "none":
            return MatchConfig(ratio=self.ratio, filter="none")
        if self.filter == "paper":
            return MatchConfig(ratio=self.ratio, filter="paper")
        tolerance = SCALE_TOLERANCE if self.filter == "scale" else 0.0
        return MatchConfig(ratio=self.ratio, filter="density", scale_tolerance=tolerance)

    @property
    def label(self) -> str:
        """In short, for tables."""
        ratio = "" if self.ratio == 1 else f" ratio {self.ratio:g}"
        added = "" if self.filter == "none" else f" + {self.filter}"
        return f"{self.matcher}{ratio}{added}"


def describe_ratios(settings: Iterable[MatchSettings]) -> str:
    """``none, 0.8, 0.9``."""
    return ", ".join("none" if s.ratio == 1 else f"{s.ratio:g}" for s in settings)


@dataclass(frozen=True)
class Matched:
    """What :func:`match_pairs` did; as :class:`evaluation.extractors.extraction.Extracted`."""

    path: Path
    num_matched: int
    seconds: float


def match_pairs(
    features_path: Path,
    pairs: Iterable[Pair],
    settings: MatchSettings,
    folder: Path,
    *,
    jobs: int = 1,
    device: str = "cpu",
) -> Matched:
    """Match the pairs that are not in the file of these features and settings yet.

    Args:
        features_path: file with the features of all images.
        pairs: image names.
        settings: how to match.
        folder: for the file; its name holds a hash of features and settings.
        jobs: pairs at once, in threads.
        device: where descriptors are compared.

    Raises:
        ValueError: an image is not in the file, or its features cannot be matched so.
        FileNotFoundError: there is no features file.
        OSError: the matches cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FeatureStore(features_path) as store:
        provenance = {
            **{key: str(value) for key, value in asdict(settings).items()},
            "features": digest_of(dict(store.provenance)),
        }
        if settings.matcher == "adalam":
            provenance["kornia"] = kornia.__version__
        path = folder / f"{features_path.stem[:80]}-{digest_of(provenance)}.h5"
        with MatchStore.resume(path, provenance) as out:
            missing = [pair for pair in dict.fromkeys(pairs) if pair not in out]
            names = dict.fromkeys(name for pair in missing for name in pair)
            features = {name: store.read(name).to(device) for name in names}
            start = time.perf_counter()
            _match_all(features, missing, settings, out, jobs)
            seconds = time.perf_counter() - start
    return Matched(path, len(missing), seconds)


def match_features(a: Features, b: Features, settings: MatchSettings) -> Matches:
    """Matches of two images.

    Raises:
        ValueError: as :func:`rekd_hloc.matching.match.match`.
    """
    if settings.matcher == "adalam":
        return match_adalam(a, b)
    return match(a, b, settings.config())


def _match_all(
    features: Mapping[str, Features],
    pairs: Sequence[Pair],
    settings: MatchSettings,
    out: MatchStore,
    jobs: int,
) -> None:
    def run(pair: Pair) -> Matches:
        a, b = pair
        return match_features(features[a], features[b], settings).to("cpu")

    rest = iter(pairs)
    with (
        ThreadPoolExecutor(jobs) as pool,
        tqdm(total=len(pairs), desc="match", unit="pair", disable=None, leave=False) as bar,
    ):
        while chunk := list(islice(rest, PAIRS_IN_FLIGHT)):
            for (a, b), matches in zip(chunk, pool.map(run, chunk), strict=True):
                out.write(a, b, matches, len(features[a]))
                bar.update()
