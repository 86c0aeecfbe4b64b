"""Map until a model of most images comes out: other seeds first, then a relaxed start."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rekd_hloc.sfm.mapping import RELAXED, names_in, select_models, write_model
from rekd_hloc.sfm.report import num_registered
from rekd_hloc.sfm.verification import MAX_SEED

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Mappings tried at most with COLMAP's own limits; one in five starts from a bad pair on hard
images."""
SEED_STEP = 1_000_003
"""From one attempt's seed to the next: far from the seeds that people choose."""

MIN_GROUP = 3
"""Images of a group that is mapped by itself."""

MapGroup = Callable[[Path, Sequence[str]], list[Any]]
"""Maps some of the images into a folder, relaxed."""
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
            that were relaxed, if any; of a group of images that was mapped by itself, ``group``
            too, how many it has.
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


def map_left_groups(
    tried: Attempts, map_group: MapGroup, groups: Sequence[Sequence[str]], scratch: Path, seed: int
) -> None:
    """Map each group of images of which no model holds one, relaxed, and add its models.

    Many places in one folder are groups that nothing ties together. An attempt ends with a model of
    the largest; the walk along a street beside it may need the relaxed start.

    Args:
        tried: attempts that gave a model, without a relaxed one, which would have reached every
            group.
        map_group: one mapping of a group.
        groups: of images that verified pairs tie together.
        scratch: folder for the models.
        seed: of the mapping.

    Raises:
        OSError: a model could not be written whole.
    """
    held = set[str]().union(*map(names_in, tried.models))
    found: list[Any] = []
    for number, group in enumerate(groups):
        if len(group) < MIN_GROUP or not held.isdisjoint(group):
            continue
        models = map_group(scratch / f"group-{number}", group)
        record = {"seed": seed, "num_registered": num_registered(models), "group": len(group)}
        tried.records.append(record | {"relaxed": dict(RELAXED)})
        found += models
    if not found:
        return
    first = tried.models[0]
    tried.models = select_models([*tried.models, *found])
    tried.relaxed = tried.models[0] is not first
    tried.folder = scratch / "all"
    for rank, model in enumerate(tried.models):
        write_model(model, tried.folder / str(rank))
