"""Where the time of one photo goes: reading, network, patches, descriptor, and all the rest."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from evaluation.reporting.report import Cell, Table
from evaluation.speed.roof import MacCounter
from rekd_hloc.features import described, grey_images, image_extraction
from rekd_hloc.features.detector import batch_detector
from rekd_hloc.features.detector.network import DetectorNetwork, TiledNetwork
from rekd_hloc.features.detector.peak_shape import ShapedKeypoints
from rekd_hloc.features.detector.shared_pyramid import pyramid_network
from rekd_hloc.features.extractor import Extractor

READING, NETWORK, RANKING, PATCHES, DESCRIPTOR, REST = (
    "reading", "network", "ranking", "patches", "descriptor", "maxima, angles and the rest",
)  # fmt: skip
NETWORKS = (NETWORK, DESCRIPTOR)
"""Stages whose multiplications are counted."""


@dataclass(frozen=True)
class Stage:
    """One stage of the extraction of a photo.

    Attributes:
        name: of the stage.
        seconds: by the clock, the median of the repeats.
        gmac: billions of multiplications of its network; 0 where it has none.
    """

    name: str
    seconds: float
    gmac: float = 0.0


def time_stages(extractor: Extractor, photo: Path, repeats: int) -> list[Stage]:
    """Return the stages of a photo in their order; the rest is what none of them is.

    Args:
        extractor: of this project.
        photo: image file.
        repeats: how often it is extracted; one more, which warms up, counts multiplications.
    """
    macs: dict[str, float] = dict.fromkeys(NETWORKS, 0.0)

    def counted(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            if name not in macs:
                return work(*arguments, **options)
            with MacCounter() as counter:
                result = work(*arguments, **options)
            macs[name] += counter.gmac
            return result

        return run

    with wrapped(extractor, counted):
        extractor(photo)
    turns = [_time_once(extractor, photo) for _ in range(repeats)]
    names = (READING, NETWORK, RANKING, PATCHES, DESCRIPTOR, REST)
    return [
        Stage(name, statistics.median(turn[name] for turn in turns), macs.get(name, 0.0))
        for name in names
    ]


def stages_table(method: str, stages: Sequence[Stage], roof: float) -> Table:
    """Return one row for each stage.

    Args:
        method: whose stages they are.
        stages: of one photo.
        roof: GMAC/s that the machine reaches, see :func:`evaluation.speed.roof.measure_roof`.
    """
    total = sum(stage.seconds for stage in stages)
    rows: list[list[Cell]] = [
        [
            stage.name,
            f"{stage.seconds:.3f}",
            100 * stage.seconds / total,
            stage.gmac or None,
            100 * stage.gmac / stage.seconds / roof if stage.gmac else None,
        ]
        for stage in stages
    ]
    columns = ["stage", "seconds", "share %", "GMAC", "of the roof %"]
    return Table(f"stages of {method}, roof {roof:.0f} GMAC/s", columns, rows)


def _time_once(extractor: Extractor, photo: Path) -> dict[str, float]:
    spent = dict.fromkeys((READING, NETWORK, RANKING, PATCHES, DESCRIPTOR), 0.0)

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            start = time.perf_counter()
            try:
                return work(*arguments, **options)
            finally:
                spent[name] += time.perf_counter() - start

        return run

    with wrapped(extractor, timed):
        start = time.perf_counter()
        extractor(photo)
        total = time.perf_counter() - start
    return {**spent, REST: total - sum(spent.values())}


@contextmanager
def wrapped(
    extractor: Extractor, wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Put a wrapper around what each stage calls, on this extractor and in its modules."""
    network, ranking = extractor.detector.network, extractor.ranking  # the latter is frozen
    parts: list[tuple[object, str, str]] = [
        (grey_images, "load_grey", READING),
        *((network, name, NETWORK) for name in _network_parts(network)),
        (described, "cut_patches", PATCHES),
        (image_extraction, "cut_batch_patches", PATCHES),
        (extractor.descriptor, "forward", DESCRIPTOR),
        (ShapedKeypoints, "in_image", RANKING),
        (batch_detector, "measure_batch_surroundings", RANKING),
    ]
    if ranking is not None:
        parts.append((type(ranking), "keep_best", RANKING))
    with ExitStack() as stack:
        for owner, attribute, name in parts:
            work = getattr(owner, attribute)
            stack.enter_context(patch.object(owner, attribute, wrap(name, work)))
        yield


def _network_parts(network: DetectorNetwork) -> list[str]:
    """Return the methods that the detector calls."""
    whole = ["level_maps"] if pyramid_network(network) is None else ["inner_maps", "join_maps"]
    return [*whole, *(["region_maps"] if isinstance(network, TiledNetwork) else [])]
