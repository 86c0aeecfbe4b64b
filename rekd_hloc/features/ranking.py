"""A small network that says how likely a keypoint is to be matched rightly, for the budget.

The response of a detector says how well a point is localised, hardly whether it will be matched.
The network looks at the shapes of a keypoint's peaks and at what surrounds it; if the candidates
are described first, also at their descriptors and at how near the image's others are. Nothing of it
tells how the image is rotated, if the patches are oriented. Training: ``training.train_ranking``.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from rekd_hloc.features.described import Described
from rekd_hloc.features.detector.peak_shape import ShapedKeypoints
from rekd_hloc.features.detector.surroundings import SURROUNDINGS
from rekd_hloc.types import Keypoints
from rekd_hloc.weight_files import read_weights, shipped_names, shipped_path, write_weights

RANKING_FORMAT = "rekd_hloc ranking 1"
DESCRIPTOR_WIDTH = 128
LooksAt = Literal["detection", "likeness", "descriptor"]
"""What a ranking looks at: what the detector and the image say; also the length of descriptors and
how like they are; also the descriptors themselves. Only the first needs no description."""
DETECTION_SIGNS = (
    "log_score",
    "rank",
    "rank_in_level",
    "level",
    "least_curvature",
    "most_curvature",
    "peak",
    "second_share",
    *SURROUNDINGS,
)
LIKENESS_SIGNS = ("length", "likeness", "distant_likeness")
"""The signs beside the descriptor, in the order of the network's input; see :func:`read_signs`."""
SAME_PLACE = 32.0
"""Keypoints nearer than this, in pixels of the larger scale, show the same place: half a patch."""
EXACT = "donot_use_mm_for_euclid_dist"
"""How torch takes distances without losing what lies close together."""
CHUNK = 2048
"""Rows of the table of similarities that are there at once."""


class RankingNetwork(nn.Module):
    """Perceptron from the signs of a keypoint to the logit of being matched rightly.

    Args:
        num_signs: width of its input.
        hidden: widths of the hidden layers.
    """

    def __init__(self, *, num_signs: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(num_signs))
        self.register_buffer("deviation", torch.ones(num_signs))
        layers: list[nn.Module] = []
        width = num_signs
        for next_width in hidden:
            layers += [nn.Linear(width, next_width), nn.ReLU()]
            width = next_width
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, signs: Float[Tensor, "keypoint sign"]) -> Float[Tensor, " keypoint"]:
        """Return logits."""
        logit: Tensor = self.layers((signs - self.mean) / self.deviation)[:, 0]
        return logit


@dataclass(frozen=True)
class Ranking:
    """A trained ranking.

    Attributes:
        network: in eval mode.
        looks_at: what it is given of each candidate.
        descriptor_weights: hash of the file of the descriptor that it belongs to; empty if it looks
            at the detection alone.
    """

    network: RankingNetwork
    looks_at: LooksAt
    descriptor_weights: str

    @property
    def needs_description(self) -> bool:
        """Say whether candidates must be described before they are ranked."""
        return self.looks_at != "detection"

    @property
    def sees_directions(self) -> bool:
        """Say whether the directions of edges count for anything."""
        first = self.network.layers[0]
        assert isinstance(first, nn.Linear)
        columns = [i for i, name in enumerate(DETECTION_SIGNS) if "direction" in name]
        return bool(first.weight[:, columns].any())

    @torch.inference_mode()
    def logits(self, candidates: Keypoints | Described) -> Float[Tensor, " keypoint"]:
        """Return how likely each candidate is to be matched rightly, as a logit."""
        if len(candidates) == 0:
            return torch.zeros(0)
        logit: Tensor = self.network(read_signs(candidates, self.looks_at))
        return logit

    def order(self, candidates: Keypoints | Described) -> Int64[Tensor, " keypoint"]:
        """Return indices of the candidates, the best first."""
        return torch.argsort(self.logits(candidates), descending=True, stable=True)

    def keep_best(self, candidates: Keypoints, count: int) -> Keypoints:
        """Return the best ``count`` candidates, the best first; their scores lie in 0..1."""
        order, score = self._best(candidates, count, candidates.xy.device)
        return replace(candidates[order], score=score)

    def keep_best_described(self, candidates: Described, count: int) -> Described:
        """Return the same of candidates that are described."""
        order, score = self._best(candidates, count, candidates.keypoints.xy.device)
        kept = candidates[order.to(candidates.descriptors.device)]
        return replace(kept, keypoints=replace(candidates.keypoints[order], score=score))

    def _best(
        self, candidates: Keypoints | Described, count: int, device: torch.device
    ) -> tuple[Int64[Tensor, " kept"], Float[Tensor, " kept"]]:
        logit = self.logits(candidates)
        order = torch.argsort(logit, descending=True, stable=True)[:count]
        return order.to(device), logit[order].sigmoid().to(device)


def num_signs(looks_at: LooksAt) -> int:
    """Return the width of what a ranking looks at."""
    likeness = len(LIKENESS_SIGNS) * (looks_at != "detection")
    return len(DETECTION_SIGNS) + likeness + DESCRIPTOR_WIDTH * (looks_at == "descriptor")


def read_signs(
    candidates: Keypoints | Described, looks_at: LooksAt
) -> Float[Tensor, "keypoint sign"]:
    """Return what a ranking looks at: its signs, and the descriptor before normalisation.

    Scores, ranks and likenesses are relative to the image's other candidates.

    Args:
        candidates: of one image; described, unless it looks at the detection alone.
        looks_at: which signs.

    Raises:
        TypeError: the keypoints have no shapes; the detector measures them on request.
    """
    keypoints = candidates.keypoints if isinstance(candidates, Described) else candidates
    keypoints = keypoints.to("cpu")
    if not isinstance(keypoints, ShapedKeypoints):
        raise TypeError("a ranking needs keypoints with shapes: make the detector with_shapes")
    parts = [_detection_signs(keypoints)]
    if looks_at != "detection":
        if not isinstance(candidates, Described):
            raise TypeError(f"a ranking that looks at the {looks_at} needs described keypoints")
        length = candidates.length.clamp(min=1e-6).log()
        parts.append(torch.stack([length, *likenesses(candidates)], dim=1))
        if looks_at == "descriptor":
            parts.append(candidates.descriptors * candidates.length[:, None])
    return torch.cat(parts, dim=1)


def _detection_signs(keypoints: ShapedKeypoints) -> Float[Tensor, "keypoint sign"]:
    score = keypoints.score.clamp(min=1e-12)
    columns = [
        (score / score.median()).log(),
        _rank(score, torch.zeros_like(score)),
        _rank(score, keypoints.scale),
        keypoints.scale.log2(),
        keypoints.least_curvature.clamp(1e-4, 10).log(),
        keypoints.most_curvature.clamp(1e-4, 10).log(),
        keypoints.peak.clamp(min=1e-6).log(),
        keypoints.second_share,
    ]
    around = keypoints.surroundings.clone()
    is_contrast = torch.tensor([name.startswith("contrast") for name in SURROUNDINGS])
    around[:, is_contrast] = (around[:, is_contrast] + 1e-3).log()
    return torch.cat([torch.stack([c.float() for c in columns], dim=1), around], dim=1)


def load_ranking(name: str) -> Ranking:
    """Load a ranking by its name or from a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no ranking, or does not fit what it states.
    """
    path = resolve_ranking(name)
    tensors, metadata = read_weights(path)
    if metadata.get("format") != RANKING_FORMAT:
        raise ValueError(
            f"{path} has format {metadata.get('format')!r}, a ranking has {RANKING_FORMAT!r}"
        )
    try:
        stated = json.loads(metadata["network"])
        network = RankingNetwork(num_signs=stated["num_signs"], hidden=tuple(stated["hidden"]))
        network.load_state_dict(tensors)
        looks_at = stated["looks_at"]
        if looks_at not in get_args(LooksAt) or stated["num_signs"] != num_signs(looks_at):
            raise ValueError(f"it looks at {stated['num_signs']} signs of {looks_at!r}")
        ranking = Ranking(
            network.eval().requires_grad_(False), looks_at, str(stated["descriptor_weights"])
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not fit what it states: {reason}; train it again") from error
    return ranking


def resolve_ranking(name: str) -> Path:
    """Return the file behind the name of a shipped ranking, or behind a path.

    Raises:
        FileNotFoundError: there is none.
    """
    for path in (shipped_path(name), Path(name)):
        if path.is_file():
            return path
    known = ", ".join(["none", *shipped_names(RANKING_FORMAT)])
    raise FileNotFoundError(
        f"no ranking {name!r}: give {known}, or a file that training.train_ranking has written"
    )


def save_ranking(path: Path, ranking: Ranking, provenance: dict[str, Any]) -> None:
    """Write a ranking as it ships.

    Args:
        path: the file to write.
        ranking: with the network that was trained.
        provenance: where the weights come from; any JSON values.
    """
    layers = [layer for layer in ranking.network.layers if isinstance(layer, nn.Linear)]
    stated = {
        "num_signs": layers[0].in_features,
        "hidden": [layer.out_features for layer in layers[:-1]],
        "looks_at": ranking.looks_at,
        "descriptor_weights": ranking.descriptor_weights,
    }
    metadata = {
        "format": RANKING_FORMAT,
        "network": json.dumps(stated),
        "provenance": json.dumps(provenance),
    }
    state = ranking.network.state_dict()
    write_weights(path, {key: tensor.detach() for key, tensor in state.items()}, metadata)


def _rank(score: Float[Tensor, " keypoint"], group: Float[Tensor, " keypoint"]) -> Tensor:
    """Share of the keypoints of the same group that are stronger; equal ones have equal ranks."""
    rank = torch.zeros_like(score)
    for value in torch.unique(group):
        members = torch.nonzero(group == value)[:, 0]
        rising = score[members].sort().values
        weaker_or_equal = torch.searchsorted(rising, score[members].contiguous(), right=True)
        rank[members] = 1 - weaker_or_equal.float() / len(members)
    return rank


def likenesses(
    candidates: Described,
) -> tuple[Float[Tensor, " keypoint"], Float[Tensor, " keypoint"]]:
    """Return the cosine of each descriptor and the nearest other: of all, and of those apart."""
    rows, keypoints = candidates.descriptors, candidates.keypoints.to("cpu")
    xy, reach = keypoints.xy.float(), SAME_PLACE * keypoints.scale
    every, distant = [rows.new_zeros(0)], [rows.new_zeros(0)]
    for members in torch.split(torch.arange(len(rows)), CHUNK) if len(rows) else ():
        cosine = rows[members] @ rows.T
        cosine[torch.arange(len(members)), members] = -1
        every.append(cosine.amax(dim=1))
        apart = torch.cdist(xy[members], xy, compute_mode=EXACT)
        beside = apart < torch.maximum(reach[members, None], reach[None])
        distant.append(cosine.masked_fill_(beside, -1).amax(dim=1))
    return torch.cat(every), torch.cat(distant)
