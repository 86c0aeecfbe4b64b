"""Whole reconstructions against true poses: ``python -m evaluation.sfm --images DIR ...``.

The program runs presets (``rekd-fast-n8000`` for another budget of keypoints, as hloc's confs are
named) and COLMAP's own SIFT (its defaults: 8,192) on the same images, over several seeds, with the
same mapper settings. With ``--rotated`` it also runs them on the images each rotated by an angle of
its own on a canvas, with masks. Poses are compared after a similarity on the camera centres.
"""

import argparse
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from evaluation.command_line import exit_status, make_parser
from evaluation.reporting.report import Cell, Table, today, write_report
from evaluation.rotated_images import rotate_folder, rotate_poses
from rekd_hloc.config import ExtractConfig, reconstruction_preset, with_max_keypoints
from rekd_hloc.image_listing import list_images
from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.alignment import Pose, read_reference
from rekd_hloc.sfm.mapping import map_scene
from rekd_hloc.sfm.reconstruct import reconstruct
from rekd_hloc.sfm.report import describe_errors, describe_models

COLMAP_SIFT = "colmap-sift"
PROTOCOL = "SfM"
DESCRIPTION = "exhaustive pairs, incremental mapper, similarity on camera centres; mean over seeds"


@dataclass(frozen=True)
class ImageSet:
    """Images to reconstruct, their masks if any, and their true poses."""

    name: str
    images: Path
    masks: Path | None
    poses: Mapping[str, Pose]


def run_extractor(
    method: str, image_set: ImageSet, out: Path, seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Return one record a seed; features, and the matches of presets, are made once."""
    first = out / image_set.name / method / f"seed{seeds[0]}"
    records = []
    for seed in seeds:
        folder = first.with_name(f"seed{seed}")
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        if method == COLMAP_SIFT:
            models = _run_colmap(image_set, folder, first, seed)
            weights: Any = None
        else:
            models, weights = _run_preset(method, image_set, folder, first, seed)
        record = describe_models(models, list_images(image_set.images)) | describe_errors(
            models, image_set.poses
        )
        record |= {"method": method, "images": image_set.name, "seed": seed, "weights": weights}
        records.append(record | {"seconds": time.perf_counter() - start})
    return records


def _run_preset(
    method: str, image_set: ImageSet, folder: Path, first: Path, seed: int
) -> tuple[list[Any], Any]:
    for name in ("features.h5", "matches.h5"):
        if folder != first and not (folder / name).exists():
            shutil.copy(first / name, folder / name)
    conf, config = resolve_preset(method)
    report = reconstruct(
        image_set.images,
        folder,
        conf=conf,
        config=config,
        mask_dir=image_set.masks,
        seed=seed,
        progress=True,
    )
    models = sorted((folder / "sparse").glob("[0-9]*"), key=lambda path: int(path.name))
    return [pycolmap.Reconstruction(str(path)) for path in models], report["weights"]


def resolve_preset(method: str) -> tuple[str, ExtractConfig]:
    """Return a preset's name and its options.

    The budget of keypoints is the one that ``-nN`` at the end asks for, or that of
    :func:`rekd_hloc.sfm.reconstruct.reconstruct`.

    Raises:
        ValueError: no such preset, or a budget of no keypoints.
    """
    conf, budget = re.fullmatch(r"(.+?)(?:-n(\d+))?", method).groups()  # type: ignore[union-attr]
    config = reconstruction_preset(conf)
    return conf, with_max_keypoints(config, int(budget)) if budget else config


def _run_colmap(image_set: ImageSet, folder: Path, first: Path, seed: int) -> list[Any]:
    database, extracted = folder / "database.db", first / "extracted.db"
    with compat.quiet():
        if not extracted.is_file():
            reader = pycolmap.ImageReaderOptions()
            if image_set.masks is not None:
                reader.mask_path = str(image_set.masks)
            pycolmap.extract_features(str(extracted), str(image_set.images), reader_options=reader)
        shutil.copy(extracted, database)
        options = pycolmap.TwoViewGeometryOptions()
        compat.set_options(options, ransac__random_seed=seed)
        pycolmap.match_exhaustive(str(database), verification_options=options)
    return map_scene(database, image_set.images, folder / "sparse", seed=seed)


def make_tables(records: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Return a table for each image set: means over seeds, the least and largest in brackets."""
    columns = ["method", "registered", "points", "observations", "reprojection px"]
    columns += ["rotation median °", "centre median %"]
    tables = []
    for images in dict.fromkeys(record["images"] for record in records):
        chosen = [record for record in records if record["images"] == images]
        rows: list[list[Cell]] = []
        for method in dict.fromkeys(record["method"] for record in chosen):
            runs = [record for record in chosen if record["method"] == method]
            rows.append([method, *_format_runs(runs)])
        tables.append(Table(f"{images} images", columns, rows))
    return tables


def _format_runs(runs: Sequence[Mapping[str, Any]]) -> list[Cell]:
    return [
        _cell([r["num_registered"] for r in runs], 0),
        _cell([r["num_points3D"] for r in runs], 0),
        _cell([r["num_observations"] for r in runs], 0),
        _cell([r["mean_reprojection_error_px"] for r in runs], 3),
        _cell([(r["rotation_error_deg"] or {}).get("median") for r in runs], 2),
        _cell([_percent((r["center_error_rel"] or {}).get("median")) for r in runs], 2),
    ]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _cell(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "none"
    low, high = min(known), max(known)
    text = f"{np.mean(known):.{digits}f}"
    return text if low == high else f"{text} ({low:.{digits}f}..{high:.{digits}f})"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = make_parser("evaluation.sfm", __doc__)
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder of images")
    add("--reference", type=Path, required=True, help="COLMAP model or IMC files")
    add("--method", action="append", help=f"a preset, with -nN if you like, or {COLMAP_SIFT}")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--rotated", "--turned", action="store_true", help="rotated images as well")
    add("--rotation-seed", "--turn-seed", type=int, default=0, help="of the angles")
    add("--out", type=Path, required=True)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = build_parser().parse_args(argv)
    return exit_status(lambda: _evaluate(arguments))


def _evaluate(arguments: argparse.Namespace) -> None:
    methods = arguments.method or ["rekd-fast", COLMAP_SIFT]
    for method in methods:
        if method != COLMAP_SIFT:
            resolve_preset(method)  # before the long work
    image_sets = _make_image_sets(arguments)
    records = [
        record
        for image_set in image_sets
        for method in methods
        for record in run_extractor(method, image_set, arguments.out, arguments.seeds)
    ]
    seeds = ", ".join(map(str, arguments.seeds))
    weights = {record["method"]: record["weights"] or {} for record in records}
    about = {
        "program": "sfm",
        "protocol": PROTOCOL,
        "description": f"{DESCRIPTION} {seeds} (least..largest)",
        "data": f"{arguments.images.name}, {len(list_images(arguments.images))} images",
        "date": today(),
        "methods": {
            method: {"weights": " ".join(hashes.values()) or "-"}
            for method, hashes in weights.items()
        },
        "records": records,
    }
    sys.stdout.write(write_report(arguments.out, about, make_tables(records)))


def _make_image_sets(arguments: argparse.Namespace) -> list[ImageSet]:
    poses = read_reference(arguments.reference)
    image_sets = [ImageSet("upright", arguments.images, None, poses)]
    if arguments.rotated:
        folder = arguments.out / "rotated-images"
        angles = rotate_folder(arguments.images, folder, arguments.rotation_seed)
        rotated = rotate_poses(poses, angles)
        image_sets.append(ImageSet("rotated", folder / "images", folder / "masks", rotated))
    return image_sets


if __name__ == "__main__":
    sys.exit(main())
