"""Bake a training checkpoint: ``python -m training.export CHECKPOINT OUT.safetensors``."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.command_line import exit_status, make_parser
from rekd_hloc.features.convert import bake_training_checkpoint

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = make_parser("training.export", __doc__)
    parser.add_argument("checkpoint", type=Path, help="best.pt or last.pt of a detector's training")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    arguments = parser.parse_args(argv)

    def work() -> None:
        export_checkpoint(arguments.checkpoint, arguments.out)
        logger.info("wrote %s", arguments.out)

    return exit_status(work)


def export_checkpoint(checkpoint: Path, out: Path) -> None:
    """Write the baked filters that inference runs, and the parameters that training goes on from.

    The number of steps, the hash of the data and the validation metrics go along.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is damaged, of another kind, or its weights are not finite.
    """
    bake_training_checkpoint(checkpoint, out)


if __name__ == "__main__":
    sys.exit(main())
