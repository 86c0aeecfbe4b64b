"""Write a ranking with weights of one's own: ``python -m training.linear_ranking``.

The logit is a weighted sum of a few signs of the detection, such as the logarithms of the score, of
the peak's curvature and of the contrast. Nothing is learned, so nothing is learned by heart: choose
weights on scenes that no table reports.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rekd_hloc.features.ranking import DETECTION_SIGNS, Ranking, RankingNetwork, save_ranking
from training.common.cli import run_cli

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LinearRankingConfig:
    """What is weighed."""

    weights: tuple[str, ...] = ("log_score=1", "least_curvature=0.4", "contrast_192=0.4")
    """Signs and their weights; a sign that is not named has none. These ship as ``ranking-linear``;
    they were chosen on validation scenes, see docs/experiments.md."""
    output: str = "runs/ranking.safetensors"
    """File of the ranking."""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_cli("training.linear_ranking", __doc__, LinearRankingConfig(), write_ranking, argv)


def write_ranking(config: LinearRankingConfig, *, quiet: bool = False) -> Path:
    """Write the file, and return its path.

    Raises:
        ValueError: a weight is no number, or its sign is unknown.
    """
    weights = read_weights(config.weights)
    out = Path(config.output)
    save_ranking(out, linear_ranking(weights), {"weights": dict(weights)})
    logger.log(logging.DEBUG if quiet else logging.INFO, "%s", out)
    return out


def read_weights(texts: Sequence[str]) -> dict[str, float]:
    """Read ``SIGN=NUMBER``.

    Raises:
        ValueError: a text is something else, or the sign is unknown.
    """
    weights = {}
    for text in texts:
        name, _, number = text.partition("=")
        if name not in DETECTION_SIGNS:
            raise ValueError(f"no sign {name!r}; signs are {', '.join(DETECTION_SIGNS)}")
        try:
            weights[name] = float(number)
        except ValueError:
            raise ValueError(f"weight {text!r} must be SIGN=NUMBER, as log_score=1") from None
    return weights


def linear_ranking(weights: Mapping[str, float]) -> Ranking:
    """Return the ranking by a weighted sum of signs of the detection."""
    network = RankingNetwork(num_signs=len(DETECTION_SIGNS), hidden=())
    row = torch.tensor([[weights.get(name, 0.0) for name in DETECTION_SIGNS]])
    network.load_state_dict(
        {**network.state_dict(), "layers.0.weight": row, "layers.0.bias": torch.zeros(1)}
    )
    return Ranking(network.eval().requires_grad_(False), "detection", "")


if __name__ == "__main__":
    sys.exit(main())
