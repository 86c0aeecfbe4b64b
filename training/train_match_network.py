"""Train the match network: ``python -m training.train_match_network --config YAML``.

It learns which mutual nearest neighbours are right, on views of photos in pieces, on photos of
reconstructions, and on images that have nothing in common. The pairs are made once. Every step is a
pure function of the seed and the step, and a run is resumed as those of other trainings.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.extractors.extraction import digest_of
from training.common.cli import run_cli
from training.common.loop import Validation, load_ahead, run_steps
from training.common.signal_handler import SignalHandler
from training.match_data import make_pairs
from training.match_network_config import TrainMatchNetworkConfig
from training.match_network_run import MatchNetworkRun, draw_batch
from training.match_network_validation import validate
from training.match_pairs import LabelledPair

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_cli("training.train_match_network", __doc__, TrainMatchNetworkConfig(), train, argv)


def train(config: TrainMatchNetworkConfig, *, quiet: bool = False) -> Path:
    """Make the pairs that are missing, then train to the end, resuming where there is a run.

    Returns:
        The weights file of the best checkpoint, ``output/match-network.safetensors``.

    Raises:
        ValueError: nothing to learn from or to validate on, or files of another configuration.
        FileNotFoundError: no such model, photo or features.
        FloatingPointError: the loss is not finite; the message names the step.
        KeyboardInterrupt: stopped from outside, after a checkpoint.
    """
    pairs, held_out = make_pairs(config, quiet=quiet)
    run = MatchNetworkRun(config, pairs, {"pairs_hash": _hash_of(pairs, held_out)})

    def draw(step: int) -> list[LabelledPair]:
        return draw_batch(pairs, config, step)

    def validate_run() -> Validation:
        quality = validate(run.network, held_out)
        run.record(quality)
        summary = " ".join(f"{name} {value:.3f}" for name, value in quality.items())
        return Validation(quality, summary)

    batches = load_ahead(draw, run.step, config.steps, num_threads=0)
    with SignalHandler() as stop:
        run_steps(run, batches, validate_run, stop, quiet=quiet)
    return run.export()


def _hash_of(*sets: Sequence[LabelledPair]) -> str:
    """Hash of how many matches of each pair there are, and how many of them are right."""
    return digest_of({
        "pairs": [[[len(pair), int(pair.is_right.sum())] for pair in pairs] for pairs in sets]
    })  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
