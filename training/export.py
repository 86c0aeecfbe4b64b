"""Bake a training checkpoint: ``python -m training.export CHECKPOINT OUT.safetensors``."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rekd_hloc.convert import bake_training_checkpoint

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.export", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="best.pt or last.pt of a detector's training")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        export_checkpoint(arguments.checkpoint, arguments.out)
    except (ValueError, FileNotFoundError, ImportError) as error:
        logger.error("%s", error)
        return 2
    logger.info("wrote %s", arguments.out)
    return 0


def export_checkpoint(checkpoint: Path, out: Path) -> None:
    """Write what inference runs and what training goes on from, with steps, data and figures.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is damaged, of another kind, or its weights are not finite.
    """
    bake_training_checkpoint(checkpoint, out)


if __name__ == "__main__":
    sys.exit(main())
