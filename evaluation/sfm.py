"""Whole reconstructions against true poses: ``python -m evaluation.sfm --images DIR ...``.

Our presets (``rekd-fast-n8000`` for another budget of keypoints, as hloc's confs are named) and
COLMAP's own SIFT (its defaults: 8,192) on the same photos, over several seeds, with the same mapper
settings; with ``--turned`` also on the photos each turned by an angle of its own on a
canvas, with masks. Poses are compared after a similarity on the camera centres.
"""

import argparse
import json
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
from evaluation.rotated_images import rotate_folder, rotate_poses
from rekd_hloc.config import ExtractConfig, reconstruction_preset, with_max_keypoints
from rekd_hloc.files import write_json, write_text
from rekd_hloc.images import list_images
from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.alignment import Pose, read_reference
from rekd_hloc.sfm.mapping import map_scene
from rekd_hloc.sfm.reconstruct import reconstruct
from rekd_hloc.sfm.report import describe_errors, describe_models

COLMAP_SIFT = "colmap-sift"
PROTOCOL = "SfM (exhaustive pairs, incremental mapper, similarity on camera centres)"


@dataclass(frozen=True)
class Photos:
    """Photos to reconstruct, their masks if any, and their true poses."""

    name: str
    images: Path
    masks: Path | None
    poses: Mapping[str, Pose]


def run_extractor(
    method: str, photos: Photos, out: Path, seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """One record a seed; features, and our matches, are made once."""
    first = out / photos.name / method / f"seed{seeds[0]}"
    records = []
    for seed in seeds:
        folder = first.with_name(f"seed{seed}")
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        if method == COLMAP_SIFT:
            models = _run_colmap(photos, folder, first, seed)
            weights: Any = None
        else:
            models, weights = _run_ours(method, photos, folder, first, seed)
        record = describe_models(models, list_images(photos.images)) | describe_errors(
            models, photos.poses
        )
        record |= {"method": method, "photos": photos.name, "seed": seed, "weights": weights}
        records.append(record | {"seconds": time.perf_counter() - start})
    return records


def _run_ours(
    method: str, photos: Photos, folder: Path, first: Path, seed: int
) -> tuple[list[Any], Any]:
    for name in ("features.h5", "matches.h5"):
        if folder != first and not (folder / name).exists():
            shutil.copy(first / name, folder / name)
    conf, config = resolve_preset(method)
    report = reconstruct(
        photos.images,
        folder,
        conf=conf,
        config=config,
        mask_dir=photos.masks,
        seed=seed,
        progress=True,
    )
    found = sorted((folder / "sparse").glob("[0-9]*"), key=lambda path: int(path.name))
    return [pycolmap.Reconstruction(str(path)) for path in found], report["weights"]


def resolve_preset(method: str) -> tuple[str, ExtractConfig]:
    """The preset's name and its options, with the budget that ``-nN`` at the end asks for, or that
    of :func:`rekd_hloc.sfm.reconstruct.reconstruct`.

    Raises:
        ValueError: no such preset, or a budget of no keypoints.
    """
    conf, budget = re.fullmatch(r"(.+?)(?:-n(\d+))?", method).groups()  # type: ignore[union-attr]
    config = reconstruction_preset(conf)
    return conf, with_max_keypoints(config, int(budget)) if budget else config


def _run_colmap(photos: Photos, folder: Path, first: Path, seed: int) -> list[Any]:
    database, extracted = folder / "database.db", first / "extracted.db"
    with compat.quiet():
        if not extracted.is_file():
            reader = pycolmap.ImageReaderOptions()
            if photos.masks is not None:
                reader.mask_path = str(photos.masks)
            pycolmap.extract_features(str(extracted), str(photos.images), reader_options=reader)
        shutil.copy(extracted, database)
        options = pycolmap.TwoViewGeometryOptions()
        compat.set_options(options, ransac__random_seed=seed)
        pycolmap.match_exhaustive(str(database), verification_options=options)
    return map_scene(database, photos.images, folder / "sparse", seed=seed)


def format_table(records: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table: mean over seeds, with the spread from least to largest in brackets."""
    lines = [
        "| photos | method | registered | points | observations | reprojection px "
        "| rotation median ° | centre median % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((r["photos"], r["method"]) for r in records):
        rows = [r for r in records if (r["photos"], r["method"]) == key]
        cells = [
            _cell([r["num_registered"] for r in rows], 0),
            _cell([r["num_points3D"] for r in rows], 0),
            _cell([r["num_observations"] for r in rows], 0),
            _cell([r["mean_reprojection_error_px"] for r in rows], 3),
            _cell([(r["rotation_error_deg"] or {}).get("median") for r in rows], 2),
            _cell([_percent((r["center_error_rel"] or {}).get("median")) for r in rows], 2),
        ]
        lines.append(f"| {key[0]} | {key[1]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _cell(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "none"
    low, high = min(known), max(known)
    text = f"{np.mean(known):.{digits}f}"
    return text if low == high else f"{text} ({low:.{digits}f}..{high:.{digits}f})"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = make_parser("evaluation.sfm", __doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of photos")
    parser.add_argument("--reference", type=Path, required=True, help="COLMAP model or IMC files")
    parser.add_argument(
        "--method", action="append", help=f"a preset, with -nN if you like, or {COLMAP_SIFT}"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--turned", action="store_true", help="turned photos as well")
    parser.add_argument("--turn-seed", type=int, default=0, help="of the angles")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    return exit_status(lambda: _evaluate(arguments))


def _evaluate(arguments: argparse.Namespace) -> None:
    poses = read_reference(arguments.reference)
    methods = arguments.method or ["rekd-fast", COLMAP_SIFT]
    for method in methods:
        if method != COLMAP_SIFT:
            resolve_preset(method)  # before the long work
    sets = [Photos("upright", arguments.images, None, poses)]
    if arguments.turned:
        folder = arguments.out / "turned-photos"
        angles = rotate_folder(arguments.images, folder, arguments.turn_seed)
        turned = rotate_poses(poses, angles)
        sets.append(Photos("turned", folder / "images", folder / "masks", turned))
    records = [
        record
        for photos in sets
        for method in methods
        for record in run_extractor(method, photos, arguments.out, arguments.seeds)
    ]
    table = f"Protocol: {PROTOCOL}; seeds {arguments.seeds}\n\n{format_table(records)}"
    write_text(arguments.out / "table.md", table)
    write_json(
        arguments.out / "results.json",
        json.loads(json.dumps({"protocol": PROTOCOL, "records": records})),
    )
    sys.stdout.write(table)


if __name__ == "__main__":
    sys.exit(main())
