"""Bags of images for the multiview task: small scenes drawn from a large one.

Without official lists a bag grows from one image; the next one is drawn among
those that see the same as most images of the bag, all of them if there are such. (The official bags
were drawn under covisibility as well: their pairs have more matches than the covisible pairs of a
scene.) Without lists of covisible pairs every image may follow.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from evaluation.imc.dataset import Scene
from rekd_hloc.types import Pair

logger = logging.getLogger(__name__)

Bag = tuple[str, ...]
BAG_SIZES = (5, 10, 25)
NUM_BAGS = 10
"""Bags of each size where there are no official lists; those have 100, 50 and 25."""
BAG_SEED = 0
"""Of drawing, so that all extractors have the same bags."""
ATTEMPTS_PER_BAG = 20
"""Draws for each bag that is wanted; a bag that came before, or cannot grow, is drawn anew."""


def draw_bags(
    names: Sequence[str],
    size: int,
    num_bags: int,
    generator: np.random.Generator,
    covisible: Iterable[Pair] | None = None,
) -> list[Bag]:
    """Draw different bags of that size, each sorted by name.

    Args:
        names: images to draw from.
        size: images of a bag, 2 or more.
        num_bags: how many are wanted; there may be fewer different ones.
        generator: source of randomness.
        covisible: pairs that see the same; None means that all do.

    Raises:
        ValueError: a size or number that is too small.
    """
    if size < 2 or num_bags < 1:
        raise ValueError(f"bags need 2 images and 1 bag at least, got {size} and {num_bags}")
    if size > len(names):
        logger.warning("no bags of %d images: the scene has %d", size, len(names))
        return []
    order = sorted(names)
    beside = _neighbours(order, covisible)
    bags: dict[Bag, None] = {}
    for _ in range(ATTEMPTS_PER_BAG * num_bags):
        bag = _grow(order, size, beside, generator)
        if bag is not None:
            bags[bag] = None
        if len(bags) == num_bags:
            break
    if len(bags) < num_bags and size < len(names):
        logger.warning("%d bags of %d images instead of %d", len(bags), size, num_bags)
    return list(bags)


def choose_bags(scene: Scene, bag_sizes: Sequence[int], num_bags: int | None) -> list[Bag]:
    """Choose official bags of each size where the scene has them, else draw some.

    Args:
        scene: whose calibrated images they are of.
        bag_sizes: images of a bag; sizes beyond the scene's are left out with a warning.
        num_bags: of each size; None for all official ones, or :data:`NUM_BAGS` drawn ones.
    """
    calibrated = set(scene.calibration)
    covisible = scene.pairs() if scene.covisible else None
    chosen: list[Bag] = []
    for size in bag_sizes:
        official = [bag for bag in scene.bags.get(size, ()) if calibrated.issuperset(bag)]
        if official:
            chosen += official[:num_bags]
            continue
        generator = np.random.default_rng([BAG_SEED, size])
        count = NUM_BAGS if num_bags is None else num_bags
        chosen += draw_bags(sorted(calibrated), size, count, generator, covisible)
    return chosen


@dataclass(frozen=True)
class BagSet:
    """Bags of one scene.

    Attributes:
        scene: whose images they are.
        bags: of all sizes.
        masks: of images that are valid in part only.
    """

    scene: Scene
    bags: Sequence[Bag]
    masks: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def from_scene(
        cls,
        scene: Scene,
        bag_sizes: Sequence[int],
        num_bags: int | None,
        masks: Mapping[str, Path] | None = None,
    ) -> "BagSet":
        """Choose the same bags for all extractors and seeds; see :func:`choose_bags`."""
        bags = choose_bags(scene, bag_sizes, num_bags)
        if not bags:
            logger.warning("%s: no bags of sizes %s", scene.key, bag_sizes)
        return cls(scene, bags, masks or {})

    def halves(self) -> tuple[list[Bag], list[Bag]]:
        """Split into bags to choose settings on and those to report, alternating within each size.

        A bag that is the only one of its size is reported.
        """
        tuning: list[Bag] = []
        reported: list[Bag] = []
        seen: Counter[int] = Counter()
        for bag in self.bags:
            (tuning if seen[len(bag)] % 2 else reported).append(bag)
            seen[len(bag)] += 1
        return tuning, reported


def _grow(
    names: Sequence[str],
    size: int,
    beside: dict[str, set[str]] | None,
    generator: np.random.Generator,
) -> Bag | None:
    if beside is None:
        return tuple(sorted(str(n) for n in generator.choice(names, size, replace=False)))
    bag = {str(generator.choice(names))}
    while len(bag) < size:
        links = {name: len(beside[name] & bag) for name in names if name not in bag}
        most = max(links.values())
        if most == 0:
            return None
        bag.add(str(generator.choice([name for name in names if links.get(name) == most])))
    return tuple(sorted(bag))


def _neighbours(
    names: Sequence[str], covisible: Iterable[Pair] | None
) -> dict[str, set[str]] | None:
    if covisible is None:
        return None
    beside: dict[str, set[str]] = {name: set() for name in names}
    for a, b in covisible:
        if a in beside and b in beside:
            beside[a].add(b)
            beside[b].add(a)
    return beside
