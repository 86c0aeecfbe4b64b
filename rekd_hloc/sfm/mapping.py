"""Build sparse models with COLMAP from a verified database, repeatably.

On one thread the models are bit-identical for one seed.
"""

import errno
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from rekd_hloc.files import SCRATCH_SUFFIX, beside, replace_folder
from rekd_hloc.ownership import FOLDER, refuse_kind
from rekd_hloc.progress import progress_bar
from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.point_colors import color_black_points
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.sfm.verification import check_seed, require_database

MAPPERS = ("incremental", "global")
MODEL_FILES = frozenset(("cameras", "frames", "images", "points3D", "project", "rigs"))
MODEL_SUFFIXES = frozenset((".bin", ".txt", ".ini", ".ply"))
MIN_MODEL_IMAGES = 3
"""Smaller models beside the first one are dropped: two images constrain too little."""
RELAXED = {"init_min_tri_angle": 1.5, "init_max_forward_motion": 1.0, "init_min_num_inliers": 50}
"""COLMAP's options of a relaxed start, for cameras that move forward or little: the median angle of
the first pair's points in degrees (COLMAP: 16), how much of its motion may be along the view (0.95)
and its inliers (100)."""

REPROJECTION_LIMITS = (
    "mapper__filter_max_reproj_error",
    "triangulation__complete_max_reproj_error",
    "triangulation__merge_max_reproj_error",
)
"""COLMAP's options of the largest reprojection error in pixels, of points and of joined tracks."""


def map_scene(
    database_path: Path,
    image_dir: Path,
    out: Path,
    *,
    mapper: str = "incremental",
    seed: int = 0,
    num_threads: int = 1,
    refine_intrinsics: bool = True,
    structure_less: bool = True,
    relaxed: bool = False,
    max_error_px: float | None = None,
    names: Collection[str] = (),
    progress: bool = False,
) -> list[Any]:
    """Build sparse models from a verified database.

    Args:
        database_path: with two-view geometries.
        image_dir: where COLMAP reads the points' colours; points without a file stay black.
        out: folder that is replaced by one with the models ``0``, ``1``, ..., largest first, once
            they are complete. Until then, and when there is no model, it stays as it is.
        mapper: ``incremental`` or ``global``.
        seed: not negative.
        num_threads: 1 makes the models bit-identical for a seed, -1 uses all cores.
        refine_intrinsics: let bundle adjustment change focal length and distortion.
        structure_less: register an image that sees too few scene points from two-view matches
            alone, which may take minutes an image; no release before pycolmap 3.12 does it.
        relaxed: start from pairs with little parallax too, by the options of ``RELAXED``.
        max_error_px: largest reprojection error of an observation that stays, for the incremental
            mapper; None takes COLMAP's own, 4. The global mapper has limits in angles.
        names: images of the database to use; all for none.
        progress: show a bar on stderr.

    Returns:
        The reconstructions, most registered images first, then most points; empty if none.
        Those without a point, and those whose images are all in a larger one, are left out.

    Raises:
        ValueError: unknown mapper, one this pycolmap lacks, or a negative seed.
        FileNotFoundError: there is no database.
        FileExistsError: ``out`` holds something else than models.
        OSError: a model could not be written whole.
    """
    check_mapper(mapper)
    check_seed(seed)
    require_database(database_path)
    _require_models_only(out)
    scratch = beside(out, SCRATCH_SUFFIX)
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "colmap").mkdir(parents=True)
    settings = _mapper_settings(seed, num_threads, refine_intrinsics)
    settings["structure_less_registration_fallback"] = structure_less
    if relaxed:
        settings |= {f"mapper__{name}": value for name, value in RELAXED.items()}
    if max_error_px is not None and mapper == "incremental":
        settings |= dict.fromkeys(REPROJECTION_LIMITS, max_error_px)
    if names:
        settings["image_names"] = list(names)
    images = image_dir if image_dir.is_dir() else scratch
    paths = (str(database_path), str(images), str(scratch / "colmap"))
    try:
        with compat.quiet(), compat.write_errors(out):
            models = _run_mapper(mapper, paths, settings, progress)
        shutil.rmtree(scratch / "colmap")
        for model in models:
            color_black_points(model, image_dir)
        with compat.write_errors(out):
            for rank, model in enumerate(models):
                write_model(model, scratch / str(rank))
        if models:
            replace_folder(out, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return models


def write_model(model: Any, folder: Path) -> None:
    """Write a reconstruction in COLMAP's binary form, and look whether it is all there.

    Raises:
        OSError: (ENOSPC) it is not. COLMAP itself says nothing on a full disk, and reading a model
            that was cut off can take all memory.
    """
    folder.mkdir(parents=True)
    model.write(str(folder))
    for name, expected in _model_bytes(model).items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected:
            raise OSError(errno.ENOSPC, f"{path} is not whole")


def _require_models_only(folder: Path) -> None:
    """Refuse to replace a folder that holds anything but COLMAP's models."""
    refuse_kind(folder, FOLDER)
    for path in folder.rglob("*"):
        is_part = path.stem in MODEL_FILES and path.suffix in MODEL_SUFFIXES
        if path.is_file() and not is_part:
            raise FileExistsError(
                f"{path} is no part of a model; choose another output, or move it"
            )


def _model_bytes(model: Any) -> dict[str, int]:
    """Return sizes of the two large files of a model, which are written last."""
    images = [model.images[image_id] for image_id in model.reg_image_ids()]
    per_image = [73 + len(i.name.encode()) + 24 * i.num_points2D() for i in images]
    num_points, num_observations = model.num_points3D(), model.compute_num_observations()
    return {
        "images.bin": 8 + sum(per_image),
        "points3D.bin": 8 + 51 * num_points + 8 * num_observations,
    }


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


def _run_mapper(
    mapper: str, paths: tuple[str, str, str], settings: dict[str, Any], progress: bool
) -> list[Any]:
    if mapper == "global":
        options = compat.set_options(pycolmap.GlobalPipelineOptions(), **settings)
        numbered = pycolmap.global_mapping(*paths, options)
    else:
        options = compat.set_options(pycolmap.IncrementalPipelineOptions(), **settings)
        bar = progress_bar(None, "register", unit=" images", shown=progress)

        def count_image() -> None:
            bar.update()

        with bar:
            numbered = pycolmap.incremental_mapping(
                *paths, options, next_image_callback=count_image
            )
    return select_models(numbered.values())


def names_in(model: Any) -> set[str]:
    """Return images in a model."""
    return {model.images[image_id].name for image_id in model.reg_image_ids()}


def select_models(models: Iterable[Any]) -> list[Any]:
    """Sort models by registered images, then points, and drop those that add nothing.

    A model without points fixes no pose. COLMAP lets models share images, so a smaller one may be a
    leftover of a trial that a larger one has overtaken.
    """
    usable = [m for m in models if m.num_reg_images() >= 2 and m.num_points3D() > 0]
    usable.sort(key=lambda model: (model.num_reg_images(), model.num_points3D()), reverse=True)
    selected: list[tuple[set[str], Any]] = []
    for model in usable:
        names = names_in(model)
        if not any(names <= larger for larger, _ in selected):
            selected.append((names, model))
    return [model for _, model in selected]


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
