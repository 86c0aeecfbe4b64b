"""How well matches are told apart on pairs of which is known what is right."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from rekd_hloc.matching.match_network import MatchJudge, MatchNetwork
from training.match_pairs import LabelledPair
from training.scenes.real_pairs import average_precision

MIN_RIGHT = 15
"""Fewest right matches of a pair that recall is measured on."""
THRESHOLDS = tuple(np.round(np.arange(0.05, 1.0, 0.05), 2).tolist())
F_BETA = 0.5
"""A wrong match costs an estimator of geometry more than a right one brings."""
BATCH = 8

Score = Callable[[LabelledPair], Float[Tensor, " match"]]


def judge_pairs(
    network: MatchNetwork, pairs: Sequence[LabelledPair]
) -> list[Float[Tensor, " match"]]:
    """Return the probabilities of the matches of each pair."""
    judge = MatchJudge(network, 0.5)
    found: list[Tensor] = []
    for start in range(0, len(pairs), BATCH):
        found += judge.probabilities([pair.evidence for pair in pairs[start : start + BATCH]])
    return found


def validate(network: MatchNetwork, pairs: Sequence[LabelledPair]) -> dict[str, float]:
    """Return the mean average precision, and what is kept at the best threshold.

    Returns:
        ``average_precision``, that of the ratio test as ``by_ratio``, ``threshold``, and
        ``precision``, ``recall`` and ``f`` there; ``unrelated``, the share of pairs without right
        matches that keep five or more.
    """
    network.eval()
    probabilities = judge_pairs(network, pairs)
    rich = [i for i, pair in enumerate(pairs) if int(pair.is_right.sum()) >= MIN_RIGHT]
    poor = [i for i, pair in enumerate(pairs) if not bool(pair.is_right.any())]
    table = {
        threshold: np.mean(
            [precision_recall(probabilities[i] >= threshold, pairs[i]) for i in rich], axis=0
        )
        for threshold in THRESHOLDS
    }
    best = max(THRESHOLDS, key=lambda threshold: f_score(*table[threshold]))
    kept = [int((probabilities[i] >= best).sum()) >= 5 for i in poor]
    return {
        "average_precision": _mean([pair_precision(probabilities[i], pairs[i]) for i in rich]),
        "by_ratio": _mean(
            [pair_precision(-pairs[i].evidence.ratio.amax(dim=1), pairs[i]) for i in rich]
        ),
        "threshold": best,
        "precision": float(table[best][0]),
        "recall": float(table[best][1]),
        "f": f_score(*table[best]),
        "unrelated": _mean(kept),
    }


def precision_recall(is_kept: Bool[Tensor, " match"], pair: LabelledPair) -> tuple[float, float]:
    """Return the share of known kept matches that are right, and of right ones that are kept."""
    right = int((is_kept & pair.is_right).sum())
    known = int((is_kept & pair.is_known).sum())
    return right / max(known, 1), right / max(int(pair.is_right.sum()), 1)


def pair_precision(score: Float[Tensor, " match"], pair: LabelledPair) -> float:
    """Return the average precision of the known matches."""
    right = pair.is_right[pair.is_known]
    return average_precision(score[pair.is_known], right, max(int(right.sum()), 1))


def f_score(precision: float, recall: float) -> float:
    """Return the harmonic mean in which precision counts more."""
    square = F_BETA**2
    return float((1 + square) * precision * recall / max(square * precision + recall, 1e-9))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
