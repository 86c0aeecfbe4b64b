"""Converts between hloc's dicts of tensors and this package's features, matches and options.

A tensor of hloc has a batch of one in front. Its angles are in degrees, which grow in the same
sense as this package's radians: clockwise in image coordinates. For each keypoint of image 0 a
prediction of matches holds the index of its partner in image 1, or -1, and a score in [0, 1],
which is 0 where there is no match.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from rekd_hloc.config import MatchConfig
from rekd_hloc.geometry import wrap_angle
from rekd_hloc.types import Features, Keypoints, Matches

Tensors = dict[str, Tensor]
HLOC_NAMES = {"angles": "oris", "scales": "scales"}
"""What hloc calls the values that a matcher may need, see ``Matcher.needs``."""


def features_to_hloc(features: Features) -> Tensors:
    """Return what an extractor of hloc returns.

    All but the descriptors are float64: by default hloc stores float32 as half precision, in which
    1500.3 px is 1500 px, and leaves float64 alone.
    """
    keypoints = features.keypoints
    return {
        "keypoints": keypoints.xy.double()[None],
        "scales": keypoints.scale.double()[None],
        "oris": torch.rad2deg(keypoints.angle.double())[None],
        "scores": keypoints.score.double()[None],
        "descriptors": features.descriptors.float().T.contiguous()[None],
    }


def features_from_hloc(data: Mapping[str, Tensor], side: int) -> Features:
    """Return the features of image 0 or 1 from the input of a matcher.

    Missing scales are 1, missing angles 0, missing scores 1.

    Raises:
        ValueError: keypoints, angles, scales and descriptors disagree in number.
    """
    xy = data[f"keypoints{side}"][0]
    values = {"scales": torch.ones_like(xy[:, 0]), "oris": torch.zeros_like(xy[:, 0])}
    for name in values:
        if f"{name}{side}" in data:
            values[name] = data[f"{name}{side}"][0]
    angle = wrap_angle(torch.deg2rad(values["oris"]))
    score = data.get(f"scores{side}", torch.ones_like(xy[:, 0])[None])[0]
    if score.shape != xy.shape[:1]:  # other programs keep other things under that name
        score = torch.ones_like(xy[:, 0])
    keypoints = Keypoints(xy, values["scales"], angle, score.to(xy))
    height, width = data[f"image{side}"].shape[-2:]
    return Features(keypoints, data[f"descriptors{side}"][0].T, (width, height))


def count_keypoints(data: Mapping[str, Tensor], side: int) -> int:
    """Return how many keypoints image 0 or 1 has, judged by any of its tensors."""
    for name, axis in (("keypoints", 1), ("descriptors", 2), ("oris", 1), ("scores", 1)):
        if f"{name}{side}" in data:
            return data[f"{name}{side}"].shape[axis]
    return 0


def matches_to_hloc(matches: Matches, num_keypoints: int) -> Tensors:
    """Return the prediction that holds the same matches; cosines become scores."""
    partner = matches.index.new_full((num_keypoints,), -1)
    partner[matches.index[:, 0]] = matches.index[:, 1]
    score = matches.score.new_zeros(num_keypoints)
    score[matches.index[:, 0]] = (matches.score + 1) / 2
    return {"matches0": partner[None], "matching_scores0": score[None]}


def matches_from_hloc(prediction: Mapping[str, Tensor], num_keypoints: int) -> Matches:
    """Return the matches of a prediction, with scores as cosines, or 1 if it has no scores.

    Raises:
        ValueError: the prediction is not one for ``num_keypoints`` keypoints.
    """
    check_length(prediction, num_keypoints)
    partner = prediction["matches0"][0].long()
    index = torch.nonzero(partner >= 0)[:, 0]
    score = torch.ones(len(partner), device=partner.device)
    if "matching_scores0" in prediction:
        score = 2 * prediction["matching_scores0"][0].to(score) - 1
    return Matches(torch.stack([index, partner[index]], dim=1), score[index])


def check_length(prediction: Mapping[str, Tensor], num_keypoints: int) -> None:
    """Refuse a prediction that is not one for ``num_keypoints`` keypoints.

    Raises:
        ValueError: its shape is another.
    """
    shape = tuple(prediction["matches0"].shape)
    if shape != (1, num_keypoints):
        raise ValueError(f"a matcher returned shape {shape} for {num_keypoints} keypoints")


def select_matches(prediction: Mapping[str, Tensor], matches: Matches) -> Tensors:
    """Return the prediction with only those matches whose first keypoint is in ``matches``."""
    partner = prediction["matches0"]
    is_selected = torch.zeros_like(partner, dtype=torch.bool)
    is_selected[0, matches.index[:, 0].to(partner.device)] = True
    selected = {"matches0": torch.where(is_selected, partner, -1)}
    if "matching_scores0" in prediction:
        scores = prediction["matching_scores0"]
        selected["matching_scores0"] = torch.where(is_selected.to(scores.device), scores, 0.0)
    return selected


def no_matches(num_keypoints: int) -> Tensors:
    """Return a prediction without a match."""
    return {
        "matches0": torch.full((1, num_keypoints), -1, dtype=torch.int64),
        "matching_scores0": torch.zeros(1, num_keypoints),
    }


def match_config_from_hloc(conf: Mapping[str, Any]) -> MatchConfig:
    """Return the matching options that a model conf of hloc holds beside ``name``.

    Raises:
        ValueError: an unknown option, or a value out of range.
    """
    options = {key: value for key, value in conf.items() if key != "name"}
    known = [field.name for field in fields(MatchConfig)]
    for key in options:
        if key not in known:
            raise ValueError(f"no matching option {key!r}; options are {', '.join(known)}")
    return MatchConfig(**options)
