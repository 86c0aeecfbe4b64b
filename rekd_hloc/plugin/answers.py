"""A matcher's answer in hloc's form: for each keypoint of image 0 its partner, or -1, and a score.

hloc's scores are in [0, 1], 0 where there is no match.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from rekd_hloc.types import Matches

Tensors = dict[str, Tensor]


def matches_to_hloc(matches: Matches, num_keypoints: int) -> Tensors:
    """The answer that says the same; cosines become scores."""
    partner = matches.index.new_full((num_keypoints,), -1)
    partner[matches.index[:, 0]] = matches.index[:, 1]
    score = matches.score.new_zeros(num_keypoints)
    score[matches.index[:, 0]] = (matches.score + 1) / 2
    return {"matches0": partner[None], "matching_scores0": score[None]}


def matches_from_hloc(answer: Mapping[str, Tensor], num_keypoints: int) -> Matches:
    """The matches in an answer, with scores as cosines, or 1 where the matcher gave none.

    Raises:
        ValueError: the answer is not one for ``num_keypoints`` keypoints.
    """
    check_length(answer, num_keypoints)
    partner = answer["matches0"][0].long()
    index = torch.nonzero(partner >= 0)[:, 0]
    score = torch.ones(len(partner), device=partner.device)
    if "matching_scores0" in answer:
        score = 2 * answer["matching_scores0"][0].to(score) - 1
    return Matches(torch.stack([index, partner[index]], dim=1), score[index])


def check_length(answer: Mapping[str, Tensor], num_keypoints: int) -> None:
    """Refuse an answer that is not one for ``num_keypoints`` keypoints.

    Raises:
        ValueError: its shape is another.
    """
    shape = tuple(answer["matches0"].shape)
    if shape != (1, num_keypoints):
        raise ValueError(f"a matcher answered in shape {shape} for {num_keypoints} keypoints")


def keep_matches(answer: Mapping[str, Tensor], kept: Matches) -> Tensors:
    """The answer with those matches alone whose first keypoint is in ``kept``."""
    partner = answer["matches0"]
    stays = torch.zeros_like(partner, dtype=torch.bool)
    stays[0, kept.index[:, 0].to(partner.device)] = True
    reduced = {"matches0": torch.where(stays, partner, -1)}
    if "matching_scores0" in answer:
        scores = answer["matching_scores0"]
        reduced["matching_scores0"] = torch.where(stays.to(scores.device), scores, 0.0)
    return reduced


def no_matches(num_keypoints: int) -> Tensors:
    """An answer without a match."""
    return {
        "matches0": torch.full((1, num_keypoints), -1, dtype=torch.int64),
        "matching_scores0": torch.zeros(1, num_keypoints),
    }
