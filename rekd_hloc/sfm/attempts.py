"""Map until a model of most images comes out: other seeds first, then a relaxed start."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rekd_hloc.sfm.mapping import RELAXED
from rekd_hloc.sfm.report import num_registered
from rekd_hloc.sfm.verification import MAX_SEED

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Mappings tried at most with COLMAP's own limits; one in five starts from a bad pair on hard
images."""
SEED_STEP = 1_000_003
"""From one attempt's seed to the next: far from the seeds that people choose."""

MapOnce = Callable[[Path, int, bool], list[Any]]
"""Maps into a folder with a seed, relaxed or not."""


@dataclass
class Attempts:
    """What was tried, and the best of it.

    Attributes:
        models: of the best attempt.
        folder: where they are, None if there is no model.
        relaxed: the best attempt is the relaxed one.
        records: of each attempt: ``seed``, ``num_registered``, and ``relaxed``, COLMAP's options
            that were relaxed, if any.
    """

    models: list[Any] = field(default_factory=list)
    folder: Path | None = None
    relaxed: bool = False
    records: list[dict[str, Any]] = field(default_factory=list)


def try_to_map(
    map_once: MapOnce, scratch: Path, *, seed: int, wanted: float, may_relax: bool
) -> Attempts:
    """Map with one seed after the other until enough images are registered.

    Args:
        map_once: one mapping.
        scratch: folder for the models of all attempts.
        seed: of the first attempt.
        wanted: images that are enough.
        may_relax: make a last attempt that starts from pairs with little parallax too. Cameras that
            move forward need it; for photos from one place it would invent a model.
    """
    tried = Attempts()
    for number in range(ATTEMPTS + may_relax):
        relaxed = number == ATTEMPTS
        used = (seed + (0 if relaxed else number) * SEED_STEP) % (MAX_SEED + 1)
        folder = scratch / str(number)
        models = map_once(folder, used, relaxed)
        record = {"seed": used, "num_registered": num_registered(models)}
        tried.records.append(record | ({"relaxed": dict(RELAXED)} if relaxed else {}))
        if num_registered(models) > num_registered(tried.models):
            tried.models, tried.folder, tried.relaxed = models, folder, relaxed
        if num_registered(tried.models) >= wanted:
            break
        logger.info("attempt %d registered %d images", number + 1, num_registered(models))
    return tried
