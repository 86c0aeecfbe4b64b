"""Relative poses of one's own image pairs, by the same metrics as ``evaluation.imc``.

    python -m evaluation.pose --images DIR --pairs LIST --method rekd --out OUT
    python -m evaluation.pose --images DIR --model SPARSE --method rekd --out OUT

The truth is a text file of pairs with intrinsics and poses (the lists of ScanNet, MegaDepth and
YFCC), or a COLMAP model without distortion. Interrupt it and start it again: what is finished is
read from OUT/cache.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import evaluation.oriented_ransac.oriented_estimators  # noqa: F401  (registers its estimators)
from evaluation.command_line import exit_status, make_parser
from evaluation.extractors.options import load_extractors
from evaluation.relative_pose.dataset import PairSet
from evaluation.relative_pose.estimators import require
from evaluation.relative_pose.options import (
    add_common_options,
    add_stereo_options,
    describe_stereo,
    open_resources,
    plain_parameters,
    read_plan,
    write_stereo,
)
from evaluation.relative_pose.pair_list import read_model_pairs, read_pair_list
from evaluation.relative_pose.stereo import run_stereo

PROTOCOL = "pose-pairs"
COVISIBILITY = 0.1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = make_parser("evaluation.pose", __doc__)
    add = parser.add_argument
    add("--images", type=Path, required=True, metavar="DIR", help="folder of the images")
    truth = parser.add_mutually_exclusive_group(required=True)
    truth.add_argument("--pairs", type=Path, metavar="LIST",
        help="lines `name0 name1 rot0 rot1 K0(9) K1(9) T_0to1(16)`")  # fmt: skip
    truth.add_argument("--model", type=Path, metavar="DIR", help="COLMAP model, undistorted")
    add("--covisibility", type=float, default=COVISIBILITY, metavar="C",
        help="with --model: least share of common scene points; default 0.1")  # fmt: skip
    add("--exhaustive", action="store_true", help="with --model: all pairs")
    add_common_options(parser)
    add_stereo_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = build_parser().parse_args(argv)

    def work() -> None:
        sys.stdout.write(run(arguments))

    return exit_status(work)


def run(arguments: argparse.Namespace) -> str:
    """Do everything that the command line asks for; returns the text of table.md.

    Raises:
        ValueError: an option or a file is wrong.
        FileNotFoundError: data or weights are not there.
        ImportError: the estimator's package is missing.
    """
    require(arguments.estimator)
    plan = read_plan(arguments)
    pairs = _read_pairs(arguments).limit(arguments.num_pairs)
    methods = load_extractors(arguments, arguments.num_keypoints, matches_pairs=True)
    with open_resources(arguments) as resources:
        runs = [run_stereo([pairs], method, plan, resources) for method in methods]
    source = arguments.pairs or arguments.model
    record: dict[str, Any] = {
        "program": "pose",
        "protocol": PROTOCOL,
        "description": describe_stereo(plan, arguments.num_keypoints),
        "data": f"{source.name}: {len(pairs.used_images())} images, {len(pairs.pairs)} pairs",
        "parameters": plain_parameters(arguments),
    }
    return write_stereo(arguments.out, runs, plan, record)


def _read_pairs(arguments: argparse.Namespace) -> PairSet:
    if arguments.pairs is not None:
        rotated = arguments.out / "cache" / "rotated-list"
        return read_pair_list(arguments.pairs, arguments.images, rotated)
    return read_model_pairs(
        arguments.model, arguments.images, arguments.covisibility, exhaustive=arguments.exhaustive
    )


if __name__ == "__main__":
    sys.exit(main())
