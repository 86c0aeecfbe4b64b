"""Options that say which extractors a program measures, and what they are made of."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from evaluation.extractors.registry import EXTRACTORS, FILE, NamedExtractor, load_extractor


def add_extractor_options(parser: argparse.ArgumentParser, num_keypoints: int) -> None:
    """Add ``--method``, ``--num-keypoints``, ``--weights``, ``--device`` and ``--set``.

    Args:
        parser: of the program.
        num_keypoints: of an image, unless said otherwise.
    """
    add = parser.add_argument
    add("--method", action="append", required=True, metavar="NAME",
        help=f"may be given again: {', '.join(EXTRACTORS)}; DETECTOR+rekd-hardnet; PRESET-0.1",
    )  # fmt: skip
    add("--num-keypoints", type=int, default=num_keypoints, metavar="N",
        help=f"most keypoints of an image; default {num_keypoints}")  # fmt: skip
    add("--weights", type=Path, metavar="DIR", help="folder of the peers' weights")
    add("--device", default="auto", help="cpu, cuda, or auto (default)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="option of rekd methods")


def require_distinct(names: Sequence[str]) -> None:
    """Refuse methods that are given twice.

    Raises:
        ValueError: one is.
    """
    if len(set(names)) < len(names):
        raise ValueError(f"a method is given twice: {', '.join(names)}")


def load_extractors(
    arguments: argparse.Namespace, num_keypoints: int, *, matches_pairs: bool = False
) -> list[NamedExtractor]:
    """Load the extractors of ``--method`` in the order given.

    Args:
        arguments: of the command line.
        num_keypoints: most keypoints of an image.
        matches_pairs: as for :func:`load_extractor`.

    Raises:
        ValueError: no such extractor, one given twice, or one of stored features.
        FileNotFoundError: weights are not there.
    """
    require_distinct(arguments.method)
    if stored := [name for name in arguments.method if name.startswith(FILE)]:
        raise ValueError(f"{stored[0]}: stored features cannot be used here")
    return [
        load_extractor(
            name, num_keypoints, device=arguments.device,
            overrides=arguments.set, weights=arguments.weights, matches_pairs=matches_pairs,
        )
        for name in arguments.method
    ]  # fmt: skip
