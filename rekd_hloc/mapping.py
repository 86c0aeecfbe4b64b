"""Verify matches and build sparse models with COLMAP, repeatably.

Verification seeds every pair by itself, so its result depends neither on the number of threads nor
on where an interrupted run went on. Mapping is bit-identical for one seed on one thread.
"""

import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pycolmap
from numpy.typing import NDArray
from tqdm import tqdm

from rekd_hloc import pycolmap_compat as compat
from rekd_hloc.colmap import Pair, image_ids, unique_pairs

Counts = dict[Pair, tuple[int, int]]
MAPPERS = ("incremental", "global")
MIN_MODEL_IMAGES = 3
"""Smaller models beside the first one are dropped: two images constrain too little."""
MAX_TRIALS = 20_000
MIN_INLIER_RATIO = 0.1
"""RANSAC stops early only if a model with fewer inliers than this share is unlikely; mutual
neighbours of a hard pair hold few more."""
PAIRS_AT_ONCE = 64


class _Task(NamedTuple):
    cameras: tuple[Any, Any]
    xy: tuple[NDArray[np.float64], NDArray[np.float64]]
    index: NDArray[np.uint32]


def verify(
    database_path: Path,
    pairs: Iterable[Pair],
    seed: int,
    *,
    max_error_px: float = 4.0,
    min_num_inliers: int = 15,
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
        num_threads: 0 for all cores; the result does not depend on it.
        progress: show a bar on stderr.

    Returns:
        (matches, inliers) of each pair.

    Raises:
        ValueError: a negative seed, or a pair of an image that the database lacks.
    """
    check_seed(seed)
    options = compat.set_options(
        pycolmap.TwoViewGeometryOptions(),
        min_num_inliers=min_num_inliers,
        ransac__max_error=max_error_px,
        ransac__max_num_trials=MAX_TRIALS,
        ransac__min_inlier_ratio=MIN_INLIER_RATIO,
        ransac__random_seed=seed,
    )

    def estimate(task: _Task) -> Any:
        (camera_a, camera_b), (xy_a, xy_b), index = task
        return pycolmap.estimate_two_view_geometry(camera_a, xy_a, camera_b, xy_b, index, options)

    with compat.quiet(), pycolmap.Database.open(str(database_path)) as database:
        ids = image_ids(database)
        pairs = unique_pairs(pairs, ids)
        todo = [p for p in pairs if not database.exists_two_view_geometry(ids[p[0]], ids[p[1]])]
        cameras, xy = _read_images(database, {name for pair in todo for name in pair}, ids)
        workers = num_threads or _num_cores()
        bar = tqdm(total=len(todo), desc="verify", disable=None if progress else True)
        with ThreadPoolExecutor(workers) as executor, bar:
            for start in range(0, len(todo), PAIRS_AT_ONCE):
                chunk = todo[start : start + PAIRS_AT_ONCE]
                tasks = [_read_task(database, ids, pair, cameras, xy) for pair in chunk]
                geometries = executor.map(estimate, tasks)
                for (a, b), geometry in zip(chunk, geometries, strict=True):
                    database.write_two_view_geometry(ids[a], ids[b], geometry)
                    bar.update()
        return {pair: _count(database, ids[pair[0]], ids[pair[1]]) for pair in pairs}


def map_scene(
    database_path: Path,
    image_dir: Path,
    out: Path,
    *,
    mapper: str = "incremental",
    seed: int = 0,
    num_threads: int = 1,
    refine_intrinsics: bool = True,
    progress: bool = False,
) -> list[Any]:
    """Build sparse models from a verified database.

    Args:
        database_path: with two-view geometries.
        image_dir: where COLMAP reads the points' colours.
        out: folder that is replaced by one with the models ``0``, ``1``, ..., largest first; it
            is not made when there is no model.
        mapper: ``incremental`` or ``global``.
        seed: not negative.
        num_threads: 1 makes the models bit-identical for a seed, -1 uses all cores.
        refine_intrinsics: let bundle adjustment change focal length and distortion.
        progress: show a bar on stderr.

    Returns:
        The reconstructions, most registered images first, then most points; empty if none.

    Raises:
        ValueError: unknown mapper, one this pycolmap lacks, or a negative seed.
        OSError: a model could not be written whole.
    """
    check_mapper(mapper)
    check_seed(seed)
    scratch = out.with_name(out.name + ".tmp")
    for folder in (scratch, out):
        shutil.rmtree(folder, ignore_errors=True)
    (scratch / "colmap").mkdir(parents=True)
    place = (str(database_path), str(image_dir), str(scratch / "colmap"))
    settings = _mapper_settings(seed, num_threads, refine_intrinsics)
    bar = tqdm(desc="register", unit=" images", disable=None if progress else True)
    with compat.quiet(), bar:
        if mapper == "global":
            options = compat.set_options(pycolmap.GlobalPipelineOptions(), **settings)
            found = pycolmap.global_mapping(*place, options)
        else:
            options = compat.set_options(pycolmap.IncrementalPipelineOptions(), **settings)
            found = pycolmap.incremental_mapping(
                *place, options, next_image_callback=lambda: bar.update() and None
            )
        models = [model for model in found.values() if model.num_reg_images() >= 2]
        models.sort(key=lambda m: (m.num_reg_images(), m.num_points3D()), reverse=True)
        shutil.rmtree(scratch / "colmap")
        for rank, model in enumerate(models):
            write_model(model, scratch / str(rank))
    if models:
        scratch.rename(out)
    else:
        scratch.rmdir()
    return models


def write_model(model: Any, folder: Path) -> None:
    """Write a reconstruction in COLMAP's binary form, and read it back to be sure.

    Raises:
        OSError: what was written is not the model; a full disk does that without an error.
    """
    folder.mkdir(parents=True)
    try:
        model.write(str(folder))
        written = pycolmap.Reconstruction(str(folder))
    except RuntimeError as error:
        raise OSError(f"cannot write the model {folder}: {str(error).splitlines()[0]}") from error
    counts = (model.num_reg_images(), model.num_points3D())
    if (written.num_reg_images(), written.num_points3D()) != counts:
        raise OSError(f"the model {folder} is not whole on disk; is the disk full?")


def check_mapper(mapper: str) -> None:
    """Refuse a mapper that is not there.

    Raises:
        ValueError: unknown, or not in this pycolmap.
    """
    if mapper not in MAPPERS:
        raise ValueError(f"no mapper {mapper!r}; mappers are {', '.join(MAPPERS)}")
    if mapper == "global" and not compat.has_global_mapper():
        raise ValueError(
            f"pycolmap {pycolmap.__version__} has no global mapper; use 4.0 or newer, "
            "or the incremental mapper"
        )


def check_seed(seed: int) -> None:
    """Refuse a negative seed: COLMAP would take the time instead.

    Raises:
        ValueError: the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")


def _mapper_settings(seed: int, num_threads: int, refine: bool) -> dict[str, Any]:
    settings: dict[str, Any] = {"min_model_size": MIN_MODEL_IMAGES}
    seeded = (
        "mapper__",
        "triangulation__",
        "mapper__rotation_averaging__",
        "mapper__global_positioning__",
        "mapper__retriangulation__",
    )
    for owner in ("", *seeded):
        settings[f"{owner}random_seed"] = seed
        settings[f"{owner}num_threads"] = num_threads
    settings["mapper__bundle_adjustment__ceres__solver_options__num_threads"] = num_threads
    for name in ("focal_length", "extra_params"):
        settings[f"ba_refine_{name}"] = refine
        settings[f"mapper__abs_pose_refine_{name}"] = refine
        settings[f"mapper__bundle_adjustment__refine_{name}"] = refine
    return settings


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
) -> _Task:
    a, b = pair
    index = np.zeros((0, 2), np.uint32)
    if database.exists_matches(ids[a], ids[b]):
        index = database.read_matches(ids[a], ids[b])
    return _Task((cameras[a], cameras[b]), (xy[a], xy[b]), index)


def _count(database: Any, id_a: int, id_b: int) -> tuple[int, int]:
    matches = 0
    if database.exists_matches(id_a, id_b):
        matches = len(database.read_matches(id_a, id_b))
    return matches, len(database.read_two_view_geometry(id_a, id_b).inlier_matches)


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
