"""Options that say which extractors a program measures, and what they are made of."""

import argparse
from pathlib import Path

from evaluation.extractors.registry import EXTRACTORS


def add_extractor_options(parser: argparse.ArgumentParser, num_keypoints: int) -> None:
    """Add ``--method``, ``--num-keypoints``, ``--weights``, ``--device`` and ``--set``.

    Args:
        parser: of the program.
        num_keypoints: of an image, unless said otherwise.
    """
    add = parser.add_argument
    add(
        "--method",
        action="append",
        required=True,
        metavar="NAME",
        help=f"may be given again: {', '.join(EXTRACTORS)}; DETECTOR+rekd-hardnet",
    )
    add(
        "--num-keypoints",
        type=int,
        default=num_keypoints,
        metavar="N",
        help=f"most keypoints of an image; default {num_keypoints}",
    )
    add("--weights", type=Path, metavar="DIR", help="folder of the peers' weights")
    add("--device", default="auto", help="cpu, cuda, or auto (default)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="option of rekd methods")
