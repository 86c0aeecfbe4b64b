"""Matching options from a conf of hloc, and the orientation filter behind a matcher's answer."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from rekd_hloc.config import MatchConfig
from rekd_hloc.matching.match import filter_matches
from rekd_hloc.plugin.answers import keep_matches, matches_from_hloc
from rekd_hloc.plugin.features import features_from_hloc

ORIENTED_REMEDY = (
    "extract with a conf that stores orientations (rekd... or sift), "
    "or use a matcher without the orientation filter"
)


def read_options(conf: Mapping[str, Any]) -> MatchConfig:
    """Matching options from a model conf of hloc.

    Raises:
        ValueError: an unknown option, or a value out of range.
    """
    options = {key: value for key, value in conf.items() if key != "name"}
    known = [field.name for field in fields(MatchConfig)]
    for key in options:
        if key not in known:
            raise ValueError(f"no matching option {key!r}; options are {', '.join(known)}")
    return MatchConfig(**options)


def filter_answer(
    answer: Mapping[str, Tensor], data: Mapping[str, Tensor], config: MatchConfig
) -> dict[str, Tensor]:
    """A matcher's answer without the matches that turn otherwise than the image pair does."""
    if config.filter == "none":
        return dict(answer)
    a, b = features_from_hloc(data, 0), features_from_hloc(data, 1)
    matches = matches_from_hloc(answer, len(a)).to(a.keypoints.xy.device)
    return keep_matches(answer, filter_matches(matches, a.keypoints, b.keypoints, config))
