"""One method on the bags of all scenes, its matching chosen on one half of the bags.

As in the official benchmark, multiview has a matching of its own: a model of many images wants more
matches than a pair. With several settings all are tried on the tuning bags with the first seed; the
one with the best mAA(10), averaged over scenes, is chosen, and its figures are those of the other
bags. With one setting the figures are those of all bags.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from evaluation.extractors.extraction import Extracted, extract_images
from evaluation.extractors.registry import NamedExtractor
from evaluation.imc.bags import Bag
from evaluation.imc.dataset import Scene
from evaluation.imc.multiview import choose_bags, run_multiview
from evaluation.imc.multiview_table import MultiviewResult, MultiviewRun
from evaluation.relative_pose.matching import match_label, match_pairs
from evaluation.relative_pose.stereo import Resources, StereoPlan
from rekd_hloc.config import MatchConfig

logger = logging.getLogger(__name__)


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
        """The same bags for all methods and seeds; see :func:`choose_bags`."""
        bags = choose_bags(scene, bag_sizes, num_bags, bag_seed=0)
        if not bags:
            logger.warning("%s: no bags of sizes %s", scene.key, bag_sizes)
        return cls(scene, bags, masks or {})

    def halves(self) -> tuple[list[Bag], list[Bag]]:
        """Bags to choose settings on, and those to report: by turns within each size.

        A bag that is the only one of its size is reported.
        """
        tuning: list[Bag] = []
        reported: list[Bag] = []
        seen: Counter[int] = Counter()
        for bag in self.bags:
            (tuning if seen[len(bag)] % 2 else reported).append(bag)
            seen[len(bag)] += 1
        return tuning, reported


def require_both_halves(sets: Sequence[BagSet], plan: StereoPlan) -> None:
    """Refuse, before any work, to choose among settings where nothing is left to choose on.

    Raises:
        ValueError: several settings for a scene whose bags cannot be halved.
    """
    for bags in sets:
        if len(plan.matches) > 1 and not bags.halves()[0]:
            raise ValueError(
                f"{bags.scene.key} has one bag of each size, too few to choose a ratio on one half "
                "and report it on the other; give one ratio, smaller --bag-sizes or more --num-bags"
            )


def sweep_multiview(
    sets: Sequence[BagSet], method: NamedExtractor, plan: StereoPlan, resources: Resources
) -> MultiviewRun:
    """Extract, match and reconstruct what earlier runs have not; choose the matching.

    Args:
        sets: bags of each scene, one at least.
        method: whose features.
        plan: its ``matches`` are tried; its ``ransacs`` are stereo's alone.
        place: caches and processes.

    Raises:
        ValueError: an image cannot be read, or there are too few bags to choose on.
    """
    plan = plan.for_extractor(method)
    require_both_halves(sets, plan)
    scores: dict[MatchConfig, float] = {}
    chosen = plan.matches[0]
    if len(plan.matches) > 1:
        for settings in plan.matches:
            tried = [
                _run(bags, bags.halves()[0], settings, plan.seeds[0], method, resources)
                for bags in sets
            ]
            scores[settings] = float(np.mean([result.maa10 for result in tried]))
        chosen = max(plan.matches, key=lambda settings: scores[settings])
        logger.info("%s: chosen for multiview %s", method.name, match_label(chosen))
    results = [
        _run(bags, bags.halves()[1] if scores else bags.bags, chosen, seed, method, resources)
        for bags in sets
        for seed in plan.seeds
    ]
    return MultiviewRun(chosen, results, scores)


def _run(
    bags: BagSet,
    wanted: Sequence[Bag],
    settings: MatchConfig,
    seed: int,
    method: NamedExtractor,
    resources: Resources,
) -> MultiviewResult:
    features = _extract(bags, method, resources)
    # the pairs of all bags, so that both halves are one file
    pairs = {pair: None for bag in bags.bags for pair in combinations(sorted(bag), 2)}
    matched = match_pairs(
        features.path, pairs, settings, resources.folder / "matches",
        jobs=resources.jobs, device=resources.device,
    )  # fmt: skip
    return run_multiview(
        bags.scene, features.path, matched.path, wanted, seed=seed,
        out=resources.folder / "multiview" / matched.path.stem,
        jobs=resources.jobs, pool=resources.pool,
    )  # fmt: skip


def _extract(bags: BagSet, method: NamedExtractor, resources: Resources) -> Extracted:
    return extract_images(
        bags.scene.images, method, resources.folder / "features",
        wanted={name for bag in bags.bags for name in bag}, masks=bags.masks,
        label=bags.scene.key.replace("/", "-"),
    )  # fmt: skip
