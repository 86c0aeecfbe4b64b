"""Average descriptors of one training: ``python -m training.average_descriptors A B ... OUT``.

A, B, ... are HardNet weights that were trained on from the same start, with other data or steps.
They lie in one flat region of the loss, and the middle of it is often better than its rim
(Wortsman et al., model soups, ICML 2022). Judge the result on validation scenes.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from evaluation.command_line import exit_status, make_parser
from rekd_hloc.features.descriptor.hardnet import (
    load_hardnet,
    read_hardnet,
    resolve_hardnet,
    save_descriptor,
)
from rekd_hloc.features.descriptor.support_hardnet import FIRST_LAYER, supports_of
from rekd_hloc.weight_files import weights_hash
from training.descriptor_start import build_hardnet

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = make_parser("training.average_descriptors", __doc__)
    parser.add_argument("weights", nargs="+", help="names or safetensors files, two or more")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    arguments = parser.parse_args(argv)

    def work() -> None:
        average_descriptors(arguments.weights, arguments.out)
        logger.info("wrote %s", arguments.out)

    return exit_status(work)


def average_descriptors(names: Sequence[str], out: Path) -> None:
    """Write the mean of weights; the batch statistics are averaged too.

    Raises:
        FileNotFoundError: there are no such weights.
        ValueError: fewer than two, no HardNet, or networks of other supports.
    """
    if len(names) < 2:
        raise ValueError(f"a mean is of two weights or more, got {len(names)}")
    states = [read_hardnet(name) for name in names]
    supports = [_supports(name) for name in names]
    if any(other != supports[0] for other in supports):
        raise ValueError(
            f"weights of other supports: {', '.join(map(str, supports))}; average those of one kind"
        )
    widths = [len(state[FIRST_LAYER]) for state in states]
    if len(set(widths)) > 1:
        raise ValueError(f"weights of other widths: {widths}; average those of one kind")
    network = build_hardnet(0, supports=supports[0], width=widths[0])
    network.load_state_dict(
        {key: _mean([state[key] for state in states]) for key in network.state_dict()}
    )
    hashes = [weights_hash(resolve_hardnet(name)) for name in names]
    save_descriptor(out, network, {"mean_of": hashes})


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """Return the mean; of counts, which batch statistics have, the first."""
    if not tensors[0].is_floating_point():
        return tensors[0]
    return torch.stack([tensor.double() for tensor in tensors]).mean(dim=0).to(tensors[0].dtype)


def _supports(name: str) -> tuple[float, ...]:
    """Return the factors of the supports that weights see."""
    return tuple(supports_of(load_hardnet(name)))


if __name__ == "__main__":
    sys.exit(main())
