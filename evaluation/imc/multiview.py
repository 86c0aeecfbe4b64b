"""The multiview task of IMC: poses from COLMAP models of small bags of images.

Every bag that is finished is kept in a file of JSON lines under a hash of all that it depends on,
and not done again.
"""

import logging
import multiprocessing
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import ExitStack, closing
from itertools import combinations
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluation.extractors.extraction import digest_of
from evaluation.imc.bag import BagResult, BagTask, make_database, reconstruct_bag
from evaluation.imc.bag_log import Digests, open_bag_log
from evaluation.imc.bags import Bag, draw_bags
from evaluation.imc.dataset import Scene
from evaluation.imc.multiview_table import MultiviewResult
from rekd_hloc.sfm.database import remove_database
from rekd_hloc.storage.features import FeatureStore, MatchStore

logger = logging.getLogger(__name__)

BAG_SIZES = (5, 10, 25)
NUM_BAGS = 10
"""Bags of each size where there are no official lists; those have 100, 50 and 25."""


def run_multiview(
    scene: Scene,
    features: Path,
    matches: Path,
    bags: Sequence[Bag],
    *,
    seed: int = 0,
    out: Path,
    jobs: int = 1,
    pool: Executor | None = None,
) -> MultiviewResult:
    """Reconstruct bags of a scene; what ``out`` has of them already is taken from there.

    Args:
        scene: images and true poses.
        features: file of the images of all bags.
        matches: file of all pairs of the images of a bag.
        bags: by :func:`choose_bags`.
        seed: of verification and mapping.
        out: folder of ``multiview.jsonl``.
        jobs: processes to start.
        pool: processes to use instead.

    Raises:
        ValueError: an image without features or a pair without matches.
        FileNotFoundError: no such file.
    """
    poses = {name: camera.pose for name, camera in scene.calibration.items()}
    log = open_bag_log(out / "multiview.jsonl")
    with FeatureStore(features) as feature_store, MatchStore(matches) as match_store:
        digests = Digests(feature_store, match_store)
        bar = tqdm(bags, f"{scene.key} look at bags", disable=None, leave=False)
        keys = {digests.key(bag, poses, seed): bag for bag in bar}
        missing = {key: bag for key, bag in keys.items() if key not in log}
        logger.info("%s, seed %d: %d of %d bags to do", scene.key, seed, len(missing), len(keys))
        database = out / f"verified-{digest_of({'bags': sorted(keys)})}.db"
        if missing:
            pairs = {pair: None for bag in bags for pair in combinations(bag, 2)}
            make_database(database, feature_store, match_store, pairs, seed, num_threads=jobs)
    if missing:
        tasks = {key: BagTask(bag, database, poses, seed) for key, bag in missing.items()}
        with closing(_run(tasks, jobs, pool, scene.key)) as done:
            for key, result in done:
                log.add(key, result)
        remove_database(database)
    return MultiviewResult(scene.key, seed, tuple(log.get(key) for key in keys))


def choose_bags(
    scene: Scene, bag_sizes: Sequence[int], num_bags: int | None, bag_seed: int
) -> list[Bag]:
    """Official bags of each size where the scene has them, else drawn ones.

    Args:
        scene: whose calibrated images they are of.
        bag_sizes: images of a bag; sizes beyond the scene's are left out with a warning.
        num_bags: of each size; None for all official ones, or :data:`NUM_BAGS` drawn ones.
        bag_seed: of drawing.
    """
    calibrated = set(scene.calibration)
    covisible = scene.pairs() if scene.covisible else None
    chosen: list[Bag] = []
    for size in bag_sizes:
        official = [bag for bag in scene.bags.get(size, ()) if calibrated.issuperset(bag)]
        if official:
            chosen += official[:num_bags]
            continue
        generator = np.random.default_rng([bag_seed, size])
        count = NUM_BAGS if num_bags is None else num_bags
        chosen += draw_bags(sorted(calibrated), size, count, generator, covisible)
    return chosen


def _run(
    tasks: Mapping[str, BagTask], jobs: int, pool: Executor | None, label: str
) -> Generator[tuple[str, BagResult]]:
    """Results as they come."""
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(desc=f"{label} bags", total=len(tasks), disable=None))
        if pool is None and min(jobs, len(tasks)) > 1:
            context = multiprocessing.get_context("spawn")  # COLMAP and torch have threads
            pool = stack.enter_context(ProcessPoolExecutor(jobs, mp_context=context))
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
