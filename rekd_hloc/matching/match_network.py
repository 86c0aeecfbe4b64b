"""A small network that says of each match of an image pair how likely it is right.

It judges matches by what :mod:`rekd_hloc.matching.match_evidence` tells of them, so it gives the
same answer if either image is rotated, scaled or shifted, whatever its weights are. First each
match is judged by itself. The better ones are then the neighbours that all are judged by; and once
more, by the new judgement. Training: ``training.train_match_network``.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from rekd_hloc.matching.match_evidence import NUM_EDGE_SIGNS, NUM_SIGNS, MatchEvidence
from rekd_hloc.matching.match_layers import NeighbourLayer
from rekd_hloc.matching.nearest import NearestScan, scan_nearest
from rekd_hloc.types import Features, Matches
from rekd_hloc.weight_files import read_weights, shipped_names, shipped_path, write_weights

MATCH_NETWORK_FORMAT = "rekd_hloc match network 1"
DEFAULT_NETWORK = "match-network"
"""Name of the weights that ship."""
NUM_STAGES = 2
"""Times that neighbours are chosen anew."""
MIN_POOL = 24
"""Fewest matches that neighbours are chosen from, where there are so many."""
POOL_SHARES = (0.1, 0.5)
"""Smallest and largest share of a pair's matches that neighbours are chosen from."""


class MatchNetwork(nn.Module):
    """Logits of the matches of image pairs.

    Args:
        width: numbers that the network keeps of a match.
        edge_width: numbers that it keeps of a neighbour in a match's frames.
        num_heads: of the attention.
        num_layers: in all; half of them after each choice of neighbours.
        num_extra: numbers of each match that its caller gives beside those that features give.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        edge_width: int = 32,
        num_heads: int = 4,
        num_layers: int = 6,
        num_extra: int = 0,
    ) -> None:
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        self.edge_mean: Tensor
        self.edge_deviation: Tensor
        num_signs = NUM_SIGNS + num_extra
        self.num_extra = num_extra
        self.register_buffer("mean", torch.zeros(num_signs))
        self.register_buffer("deviation", torch.ones(num_signs))
        self.register_buffer("edge_mean", torch.zeros(NUM_EDGE_SIGNS))
        self.register_buffer("edge_deviation", torch.ones(NUM_EDGE_SIGNS))
        self.node = _perceptron(num_signs, width, width)
        self.edge = _perceptron(NUM_EDGE_SIGNS, edge_width, edge_width)
        self.layers = nn.ModuleList(
            NeighbourLayer(width=width, edge_width=edge_width, num_heads=num_heads)
            for _ in range(num_layers)
        )
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1)) for _ in range(NUM_STAGES + 1)
        )

    def forward(self, pairs: Sequence[MatchEvidence]) -> Float[Tensor, "stage match"]:
        """Return a logit of each match after each stage, pair after pair; the last one counts.

        Raises:
            ValueError: the matches lack the numbers that the network was trained with, or have
                others.
        """
        lengths = [len(pair) for pair in pairs]
        pair = torch.repeat_interleave(torch.arange(len(pairs)), torch.tensor(lengths))
        signs = torch.cat([evidence.signs() for evidence in pairs]).to(self.mean)
        if signs.shape[1] != len(self.mean):
            raise ValueError(
                f"the network takes {self.num_extra} numbers of each match beside those of the "
                f"features, got {signs.shape[1] - NUM_SIGNS}; take one that was trained with these"
            )
        state = self.node((signs - self.mean) / self.deviation)
        logits = [self.heads[0](state)[:, 0]]
        per_stage = len(self.layers) // NUM_STAGES
        for stage in range(NUM_STAGES):
            row, near, edge_signs = self._neighbourhood(pairs, logits[-1].detach().split(lengths))
            edge = self.edge((edge_signs - self.edge_mean) / self.edge_deviation)
            for layer in self.layers[stage * per_stage : (stage + 1) * per_stage]:
                state = layer(state, edge, row, near, pair, len(pairs))
            logits.append(self.heads[stage + 1](state)[:, 0])
        return torch.stack(logits)

    def _neighbourhood(
        self, pairs: Sequence[MatchEvidence], logits: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Edges to the better matches of each pair, numbered over all pairs, and their signs."""
        rows, nears, signs, offset = [], [], [], 0
        for evidence, logit in zip(pairs, logits, strict=True):
            row, near = evidence.neighbours(choose_pool(logit))
            signs.append(evidence.edge_signs(row, near, self.mean.dtype))
            rows.append(row + offset)
            nears.append(near + offset)
            offset += len(evidence)
        return torch.cat(rows), torch.cat(nears), torch.cat(signs)


def gather_evidence(
    matches: Matches, a: Features, b: Features, scan: NearestScan | None = None
) -> MatchEvidence:
    """Return what is known of matches of any matcher.

    Args:
        matches: at most one for each keypoint.
        a: features of image a with true scales and angles.
        b: likewise of image b, on the same device.
        scan: of their descriptors, where there is one already.

    Raises:
        ValueError: as :meth:`MatchEvidence.of`, or descriptors that cannot be compared.
    """
    scan = scan or scan_nearest(a.descriptors, b.descriptors)
    cosine, ratio = scan.distance_ratios(matches)
    return MatchEvidence.of(matches, a.keypoints, b.keypoints, cosine, ratio)


def choose_pool(logit: Float[Tensor, " match"]) -> Int64[Tensor, " pooled"]:
    """Return the matches of a pair that may be neighbours: the likely ones, within bounds."""
    count = len(logit)
    if count <= MIN_POOL:
        return torch.arange(count)
    low, high = (max(MIN_POOL, round(share * count)) for share in POOL_SHARES)
    size = min(max(int((logit > 0).sum()), low), high)
    return torch.nonzero(logit >= logit.topk(size).values[-1])[:, 0]


def _perceptron(width_in: int, width: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width), nn.SiLU(), nn.Linear(width, width_out))


@dataclass(frozen=True)
class MatchJudge:
    """A trained network, and how sure it must be.

    Attributes:
        network: in eval mode.
        threshold: probability from which a match stays.
    """

    network: MatchNetwork
    threshold: float

    @torch.inference_mode()
    def probabilities(self, pairs: Sequence[MatchEvidence]) -> list[Float[Tensor, " match"]]:
        """Return how likely each match of each pair is right, all pairs at once."""
        if not pairs:
            return []
        probability = self.network(pairs)[-1].float().sigmoid()
        return list(probability.split([len(pair) for pair in pairs]))


def filter_by_network(
    matches: Matches,
    a: Features,
    b: Features,
    judge: MatchJudge,
    scan: NearestScan | None = None,
) -> Matches:
    """Keep the matches that a network holds to be right.

    Args:
        matches: of any matcher, at most one for each keypoint: best all mutual nearest neighbours.
        a: features of image a with true scales and angles.
        b: likewise of image b, on the same device.
        judge: the network.
        scan: of the descriptors, where there is one already.

    Returns:
        The matches that stay, in their order. Their scores are probabilities; they order matches
        for a sampler that tries the likely ones first.

    Raises:
        ValueError: as :func:`gather_evidence`.
    """
    (probability,) = judge.probabilities([gather_evidence(matches, a, b, scan)])
    kept = (probability >= judge.threshold).to(matches.index.device)
    score = probability.to(matches.score)
    return Matches(matches.index[kept], score[kept])


@functools.lru_cache(maxsize=4)
def load_match_network(name: str = DEFAULT_NETWORK) -> MatchJudge:
    """Load a match network by its name or from a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no match network, or does not fit what it states.
    """
    path = resolve_match_network(name)
    tensors, metadata = read_weights(path)
    if metadata.get("format") != MATCH_NETWORK_FORMAT:
        raise ValueError(
            f"{path} has format {metadata.get('format')!r}, a match network has "
            f"{MATCH_NETWORK_FORMAT!r}"
        )
    try:
        stated = json.loads(metadata["network"])
        threshold = float(stated.pop("threshold"))
        network = MatchNetwork(**{key: int(value) for key, value in stated.items()})
        network.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not fit what it states: {reason}; train it again") from error
    return MatchJudge(network.eval().requires_grad_(False), threshold)


def resolve_match_network(name: str) -> Path:
    """Return the file behind the name of a shipped match network, or behind a path.

    Raises:
        FileNotFoundError: there is none.
    """
    for path in (shipped_path(name), Path(name)):
        if path.is_file():
            return path
    known = ", ".join(shipped_names(MATCH_NETWORK_FORMAT))
    ships = f"give {known}, or" if known else "none ships here; give"
    raise FileNotFoundError(
        f"no match network {name!r}: {ships} a file that training.train_match_network has written"
    )


def save_match_network(path: Path, judge: MatchJudge, provenance: dict[str, Any]) -> None:
    """Write a match network as it ships.

    Args:
        path: the file to write.
        judge: the network that was trained, and its threshold.
        provenance: where the weights come from; any JSON values.
    """
    network = judge.network
    first = network.layers[0]
    assert isinstance(first, NeighbourLayer)
    stated = {
        "width": first.value.in_features,
        "edge_width": first.gate_edge.in_features,
        "num_heads": first.num_heads,
        "num_layers": len(network.layers),
        "threshold": judge.threshold,
    }
    if network.num_extra:
        stated["num_extra"] = network.num_extra
    metadata = {
        "format": MATCH_NETWORK_FORMAT,
        "network": json.dumps(stated),
        "provenance": json.dumps(provenance),
    }
    state = network.state_dict()
    write_weights(path, {key: tensor.detach() for key, tensor in state.items()}, metadata)
