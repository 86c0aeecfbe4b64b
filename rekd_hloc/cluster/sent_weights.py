"""Extractors and matchers on their way to a worker: weights that ship go by name, files as bytes.

A worker loads them as any process does, onto its own device, and says so where its weights are
other ones.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rekd_hloc.cluster.worker import WorkerRefusedError, describe
from rekd_hloc.config import ExtractConfig, MatchConfig
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.matching.match import Matcher, NetworkMatcher, make_matcher
from rekd_hloc.sfm.image_work import ImageExtractor
from rekd_hloc.weight_files import shipped_path

HASHES = ("detector_weights", "descriptor_weights", "ranking_weights", "match_network")
"""What provenance calls the hashes of weights."""


@dataclass(frozen=True)
class SentExtractor:
    """Say which extractor a worker has to load.

    Attributes:
        config: of the extractor.
        name: of its preset.
        files: bytes of the weights that do not ship, by the names in ``config``.
        provenance: of the driver's extractor.
    """

    config: ExtractConfig
    name: str
    files: Mapping[str, bytes]
    provenance: Mapping[str, str]

    def load(self, device: str) -> ImageExtractor:
        """Load the extractor onto a device.

        Raises:
            WorkerRefusedError: weights of that name are other ones here.
        """
        with tempfile.TemporaryDirectory(prefix="rekd-hloc-") as folder:
            paths = _unpack(self.files, Path(folder))
            descriptor = self.config.descriptor
            config = replace(
                self.config,
                weights=paths.get(self.config.weights, self.config.weights),
                descriptor=replace(
                    descriptor, weights=paths.get(descriptor.weights, descriptor.weights)
                ),
                ranking=paths.get(self.config.ranking, self.config.ranking),
            )
            extractor = Extractor.from_pretrained(self.name, device=device, config=config)
        check_weights(self.provenance, extractor.provenance)
        return extractor


@dataclass(frozen=True)
class SentMatcher:
    """Say which matcher a worker has to make; as :class:`SentExtractor`."""

    config: MatchConfig
    files: Mapping[str, bytes]
    provenance: Mapping[str, str]

    def load(self) -> Matcher:
        """Make the matcher.

        Raises:
            WorkerRefusedError: weights of that name are other ones here.
        """
        folder = tempfile.mkdtemp(prefix="rekd-hloc-") if self.files else ""
        paths = _unpack(self.files, Path(folder))  # stays: a matcher reads them when it wants to
        config = replace(self.config, network=paths.get(self.config.network, self.config.network))
        matcher = make_matcher(config)
        check_weights(self.provenance, matcher.provenance)
        return matcher


def send_extractor(extractor: ImageExtractor) -> SentExtractor | ImageExtractor:
    """Return what tells a worker of an extractor; one of another kind goes by pickle as it is."""
    if type(extractor) is not Extractor or "descriptor_weights" not in extractor.provenance:
        return extractor
    config = extractor.config
    names = (config.weights, config.descriptor.weights, config.ranking)
    return SentExtractor(config, extractor.name, _pack(names), extractor.provenance)


def send_matcher(matcher: Matcher) -> SentMatcher | Matcher:
    """Return what tells a worker of a matcher; those without weights go by pickle as they are."""
    if type(matcher) is not NetworkMatcher:
        return matcher
    return SentMatcher(matcher.config, _pack((matcher.config.network,)), matcher.provenance)


def check_weights(driver: Mapping[str, str], worker: Mapping[str, str]) -> None:
    """Refuse a worker whose weights are others.

    Raises:
        WorkerRefusedError: a hash differs; the message names both.
    """
    for key in HASHES:
        if driver.get(key) != worker.get(key):
            raise WorkerRefusedError(
                f"worker on {describe().host} has {key} {worker.get(key)}, this machine has "
                f"{driver.get(key)}; install the same rekd_hloc there"
            )


def _pack(names: tuple[str, ...]) -> dict[str, bytes]:
    """Return the bytes of weights that are files, by the names that configurations give them."""
    files = [name for name in names if not shipped_path(name).is_file()]
    return {name: Path(name).read_bytes() for name in files if Path(name).is_file()}


def _unpack(files: Mapping[str, bytes], folder: Path) -> dict[str, str]:
    """Write files into a folder; return their paths by their names on the driver."""
    paths: dict[str, str] = {}
    for number, (name, content) in enumerate(files.items()):
        path: Any = folder / f"{number}-{Path(name).name}"
        path.write_bytes(content)
        paths[name] = str(path)
    return paths
