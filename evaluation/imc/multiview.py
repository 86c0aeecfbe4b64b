"""The multiview task of IMC: poses from COLMAP models of small bags of images.

As in the official benchmark, multiview has a matching of its own: a model of many images wants more
matches than a pair. With several settings all are tried on the tuning bags with the first seed; the
one with the best mAA(10), averaged over scenes, is chosen, and the other bags are reported. With
one setting all bags are reported. Every bag that is finished is stored as a JSON line under a hash
of all that it depends on, and not done again.
"""

import logging
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from contextlib import closing
from itertools import combinations
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluation.extractors.extraction import digest_of
from evaluation.extractors.registry import NamedExtractor
from evaluation.imc.bag import (
    BagResult,
    BagTask,
    Digests,
    make_database,
    open_bag_log,
    reconstruct_bag,
)
from evaluation.imc.bags import Bag, BagSet
from evaluation.imc.dataset import Scene
from evaluation.imc.multiview_report import MultiviewResult, MultiviewRun
from evaluation.relative_pose.matching import match_label
from evaluation.relative_pose.stereo import Resources, StereoPlan
from rekd_hloc.config import MatchConfig
from rekd_hloc.sfm.database import remove_database
from rekd_hloc.storage.features import FeatureStore, MatchStore

logger = logging.getLogger(__name__)


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
        resources: caches and processes.

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
                _run_setting(bags, bags.halves()[0], settings, plan.seeds[0], method, resources)
                for bags in sets
            ]
            scores[settings] = float(np.mean([result.maa10 for result in tried]))
        chosen = max(plan.matches, key=lambda settings: scores[settings])
        logger.info("%s: chosen for multiview %s", method.name, match_label(chosen))
    results = [
        _run_setting(
            bags, bags.halves()[1] if scores else bags.bags, chosen, seed, method, resources
        )
        for bags in sets
        for seed in plan.seeds
    ]
    return MultiviewRun(chosen, results, scores)


def run_multiview(
    scene: Scene, features: Path, matches: Path, bags: Sequence[Bag], *,
    seed: int = 0, out: Path, jobs: int = 1, pool: Executor | None = None,
) -> MultiviewResult:  # fmt: skip
    """Reconstruct bags of a scene; what ``out`` has of them already is taken from there.

    Args:
        scene: images and true poses.
        features: file of the images of all bags.
        matches: file of all pairs of the images of a bag.
        bags: by :func:`choose_bags`.
        seed: of verification and mapping.
        out: folder of ``multiview.jsonl``.
        jobs: pairs verified at once.
        pool: processes that reconstruct; None works here.

    Raises:
        ValueError: an image without features or a pair without matches.
        FileNotFoundError: no such file.
    """
    poses = {name: camera.pose for name, camera in scene.calibration.items()}
    log = open_bag_log(out / "multiview.jsonl")
    with FeatureStore(features) as feature_store, MatchStore(matches) as match_store:
        digests = Digests(feature_store, match_store)
        bar = tqdm(bags, f"{scene.key} read bags", disable=None, leave=False)
        keys = {digests.key(bag, poses, seed): bag for bag in bar}
        missing = {key: bag for key, bag in keys.items() if key not in log}
        logger.info("%s, seed %d: %d of %d bags to do", scene.key, seed, len(missing), len(keys))
        database = out / f"verified-{digest_of({'bags': sorted(keys)})}.db"
        if missing:
            pairs = {pair: None for bag in bags for pair in combinations(bag, 2)}
            make_database(database, feature_store, match_store, pairs, seed, num_threads=jobs)
    if missing:
        tasks = {key: BagTask(bag, database, poses, seed) for key, bag in missing.items()}
        with closing(_reconstruct_bags(tasks, pool, scene.key)) as done:
            for key, result in done:
                log.add(key, result)
        remove_database(database)
    return MultiviewResult(scene.key, seed, tuple(log.get(key) for key in keys))


def _run_setting(
    bags: BagSet,
    wanted: Sequence[Bag],
    settings: MatchConfig,
    seed: int,
    method: NamedExtractor,
    resources: Resources,
) -> MultiviewResult:
    wanted_images = {name for bag in bags.bags for name in bag}
    features = resources.extract(
        method, bags.scene.key, bags.scene.images, wanted_images, bags.masks
    )
    # the pairs of all bags, so that both halves are one file
    pairs = {pair: None for bag in bags.bags for pair in combinations(sorted(bag), 2)}
    matched = resources.match(features, pairs, settings)
    return run_multiview(
        bags.scene, features.path, matched.path, wanted, seed=seed,
        out=resources.folder / "multiview" / matched.path.stem,
        jobs=resources.jobs, pool=resources.pool,
    )  # fmt: skip


def _reconstruct_bags(
    tasks: Mapping[str, BagTask], pool: Executor | None, label: str
) -> Generator[tuple[str, BagResult]]:
    """Return results as they come."""
    with tqdm(desc=f"{label} bags", total=len(tasks), disable=None) as bar:
        if pool is None:
            for key, task in tasks.items():
                yield key, reconstruct_bag(task)
                bar.update()
            return
        futures = {pool.submit(reconstruct_bag, task): key for key, task in tasks.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
                bar.update()
        finally:
            for future in futures:
                future.cancel()
