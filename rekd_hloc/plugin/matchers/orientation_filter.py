"""hloc's matcher ``orientation_filter``: any other matcher, then agreement on one rotation,
consensus of neighbours, or the judgement of a network."""

from dataclasses import replace
from typing import Any

from hloc import matchers
from hloc.utils.base_model import BaseModel, dynamic_load
from torch import Tensor

from rekd_hloc.matching.guided import add_guided
from rekd_hloc.matching.match import filter_matches
from rekd_hloc.matching.match_network import filter_by_network, load_match_network
from rekd_hloc.plugin.conversion import (
    features_from_hloc,
    match_config_from_hloc,
    matches_from_hloc,
    matches_to_hloc,
    select_matches,
)
from rekd_hloc.plugin.safe_matcher import SafeMatcher


class OrientationFilter(BaseModel):  # type: ignore[misc]  # hloc carries no types
    """Conf: ``matcher`` (any matcher's conf), and the filter's fields of ``MatchConfig``."""

    default_conf = {"matcher": {"name": "nearest_neighbor", "do_mutual_check": True}}

    def _init(self, conf: dict[str, Any]) -> None:
        inner = conf["matcher"].get("model", conf["matcher"])
        options = {key: value for key, value in conf.items() if key != "matcher"}
        self.config = match_config_from_hloc(options)
        if self.config.filter == "adalam":
            raise ValueError("filter adalam is a matcher, not a filter behind one; use density")
        self.matcher = dynamic_load(matchers, inner["name"])(dict(inner)).eval()
        name = f"orientation_filter on {inner['name']}"
        has_filter = self.config.guided or self.config.filter != "none"
        needs = ["keypoints", "oris"] if has_filter else []
        if self.config.guided or self.config.filter in ("consensus", "network"):
            needs.append("scales")
        if self.config.guided or self.config.filter == "network":
            needs.append("descriptors")
        if self.config.filter == "network":
            load_match_network(self.config.network)  # a mistake is told before the run
        self.safe_matcher = SafeMatcher(name, needs)

    def _forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.safe_matcher.run(self._match, data)

    def _match(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        prediction = self.matcher(dict(data))  # a copy: LightGlue's wrapper changes its argument
        if self.config.filter == "none" and not self.config.guided:
            return dict(prediction)
        a, b = features_from_hloc(data, 0), features_from_hloc(data, 1)
        matches = matches_from_hloc(prediction, len(a)).to(a.keypoints.xy.device)
        if self.config.filter == "network":
            judge = load_match_network(self.config.network)
            kept = filter_by_network(matches, a, b, judge)
        else:
            config = replace(self.config, guided=False)
            kept = filter_matches(matches, a.keypoints, b.keypoints, config)
        selected = select_matches(prediction, kept)
        if self.config.guided:
            kept = add_guided(kept, a, b)
        elif self.config.filter != "network":
            return selected
        return {**selected, **matches_to_hloc(kept, len(a))}
