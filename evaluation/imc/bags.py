"""Bags of images for the multiview task: small scenes drawn from a large one.

Where the official lists are not there, a bag grows from one image; the next one is drawn among
those that see the same as most images of the bag, all of them if there are such. (The official bags
were drawn under covisibility as well: their pairs have more matches than the covisible pairs of a
scene.) Without lists of covisible pairs every image may follow.
"""

import logging
from collections.abc import Iterable, Sequence

import numpy as np

logger = logging.getLogger(__name__)

Bag = tuple[str, ...]
ATTEMPTS_PER_BAG = 20
"""Draws for each bag that is wanted; a bag that came before, or cannot grow, is drawn anew."""


def draw_bags(
    names: Sequence[str],
    size: int,
    num_bags: int,
    generator: np.random.Generator,
    covisible: Iterable[tuple[str, str]] | None = None,
) -> list[Bag]:
    """Different bags of that size, each sorted by name.

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
    names: Sequence[str], covisible: Iterable[tuple[str, str]] | None
) -> dict[str, set[str]] | None:
    if covisible is None:
        return None
    beside: dict[str, set[str]] = {name: set() for name in names}
    for a, b in covisible:
        if a in beside and b in beside:
            beside[a].add(b)
            beside[b].add(a)
    return beside
