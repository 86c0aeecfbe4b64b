"""Verify matches with COLMAP, repeatably.

Every pair is seeded by itself, so its result depends neither on the number of threads nor on where
an interrupted run went on.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pycolmap
from numpy.typing import NDArray

from rekd_hloc.config import MAX_ERROR_PX
from rekd_hloc.matching.pairs import unique_pairs
from rekd_hloc.processor import num_cores
from rekd_hloc.progress import progress_bar
from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.cameras import image_ids
from rekd_hloc.types import Pair

Counts = dict[Pair, tuple[int, int]]
"""Matches and inliers of each pair."""
MIN_INLIERS = 15
"""Pairs with fewer are not used (COLMAP's default)."""
MAX_TRIALS = 20_000
MIN_INLIER_RATIO = 0.1
"""RANSAC stops early only if a model with fewer inliers than this share is unlikely; mutual
neighbours of a hard pair hold few more."""
PAIRS_AT_ONCE = 64
MAX_SEED = 2**31 - 1


class _Task(NamedTuple):
    cameras: tuple[Any, Any]
    xy: tuple[NDArray[np.float64], NDArray[np.float64]]
    matches: NDArray[np.uint32]
    options: Any


def verify(
    database_path: Path,
    pairs: Iterable[Pair],
    seed: int,
    *,
    max_error_px: float = MAX_ERROR_PX,
    min_num_inliers: int = MIN_INLIERS,
    max_trials: int = MAX_TRIALS,
    min_inlier_ratio: float = MIN_INLIER_RATIO,
    num_threads: int = 0,
    progress: bool = False,
) -> Counts:
    """Estimate and store the two-view geometry of each pair.

    Pairs that already have one keep it. A pair that fails gets a geometry of configuration
    DEGENERATE without inliers, never an undefined one.

    Args:
        database_path: with keypoints and matches.
        pairs: to verify; a pair without matches in the database fails.
        seed: of every pair's RANSAC, not negative.
        max_error_px: largest epipolar error of an inlier.
        min_num_inliers: pairs with fewer fail.
        max_trials: samples that RANSAC draws at most.
        min_inlier_ratio: RANSAC need not find models with a smaller share of inliers.
        num_threads: 0 for all cores; the result does not depend on it.
        progress: show a bar on stderr.

    Returns:
        (matches, inliers) of each pair.

    Raises:
        ValueError: a negative seed, or a pair of an image that the database lacks.
        FileNotFoundError: there is no database.
        OSError: a geometry could not be written; those before it are kept.
    """
    check_seed(seed)
    require_database(database_path)
    options = compat.set_options(
        pycolmap.TwoViewGeometryOptions(),
        min_num_inliers=min_num_inliers,
        ransac__max_error=max_error_px,
        ransac__max_num_trials=max_trials,
        ransac__min_inlier_ratio=min_inlier_ratio,
        ransac__random_seed=seed,
    )
    with (
        compat.quiet(),
        compat.write_errors(database_path),
        pycolmap.Database.open(str(database_path)) as database,
    ):
        ids = image_ids(database)
        pairs = unique_pairs(pairs, ids)
        todo = [p for p in pairs if not compat.has_geometry(database, ids[p[0]], ids[p[1]])]
        bar = progress_bar(None, "verify", total=len(todo), unit="pair", shown=progress)
        executor = ThreadPoolExecutor(num_threads or num_cores())
        try:
            cameras, xy = _read_images(database, {name for pair in todo for name in pair}, ids)
            for start in range(0, len(todo), PAIRS_AT_ONCE):
                chunk = todo[start : start + PAIRS_AT_ONCE]
                tasks = [_read_task(database, ids, pair, cameras, xy, options) for pair in chunk]
                for (a, b), geometry in zip(chunk, executor.map(_estimate, tasks), strict=True):
                    database.write_two_view_geometry(ids[a], ids[b], geometry)
                    bar.update()
        finally:
            executor.shutdown(cancel_futures=True)
            bar.close()
        return {pair: _count(database, ids[pair[0]], ids[pair[1]]) for pair in pairs}


def check_seed(seed: int) -> None:
    """Refuse a seed that COLMAP cannot take; for a negative one it would take the time instead.

    Raises:
        ValueError: the seed is negative, or above 2^31 - 1.
    """
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if seed > MAX_SEED:
        raise ValueError(f"seed must be at most {MAX_SEED}, got {seed}")


def require_database(path: Path) -> None:
    """Refuse a path where no file is: COLMAP would make an empty database there.

    Raises:
        FileNotFoundError: there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no database {path}")


def _read_images(
    database: Any, names: set[str], ids: dict[str, int]
) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    cameras, xy = {}, {}
    for name in names:
        cameras[name] = database.read_camera(database.read_image(ids[name]).camera_id)
        xy[name] = database.read_keypoints(ids[name])[:, :2].astype(np.float64)
    return cameras, xy


def _read_task(
    database: Any,
    ids: dict[str, int],
    pair: Pair,
    cameras: dict[str, Any],
    xy: dict[str, NDArray[np.float64]],
    options: Any,
) -> _Task:
    a, b = pair
    matches = np.zeros((0, 2), np.uint32)
    if database.exists_matches(ids[a], ids[b]):
        matches = database.read_matches(ids[a], ids[b])
    return _Task((cameras[a], cameras[b]), (xy[a], xy[b]), matches, options)


def _estimate(task: _Task) -> Any:
    (camera_a, camera_b), (xy_a, xy_b), matches, options = task
    return pycolmap.estimate_two_view_geometry(camera_a, xy_a, camera_b, xy_b, matches, options)


def _count(database: Any, id_a: int, id_b: int) -> tuple[int, int]:
    matches = 0
    if database.exists_matches(id_a, id_b):
        matches = len(database.read_matches(id_a, id_b))
    return matches, len(database.read_two_view_geometry(id_a, id_b).inlier_matches)
