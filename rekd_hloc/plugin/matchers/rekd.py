"""hloc's matcher ``rekd``: any matcher of this package, by default nearest neighbours that agree on
one rotation."""

from typing import Any

from hloc.utils.base_model import BaseModel
from torch import Tensor

from rekd_hloc.matching.match import make_matcher
from rekd_hloc.plugin.conversion import (
    HLOC_NAMES,
    features_from_hloc,
    match_config_from_hloc,
    matches_to_hloc,
)
from rekd_hloc.plugin.safe_matcher import SafeMatcher


class RekdMatcher(BaseModel):  # type: ignore[misc]  # hloc carries no types
    """Conf: the fields of ``MatchConfig``, of which ``filter`` chooses the matcher."""

    def _init(self, conf: dict[str, Any]) -> None:
        config = match_config_from_hloc(conf)
        self.matcher = make_matcher(config)
        needs = [HLOC_NAMES[need] for need in self.matcher.needs]
        name = f"matcher rekd with filter {config.filter}"
        self.safe_matcher = SafeMatcher(name, ["keypoints", "descriptors", *needs])

    def _forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.safe_matcher.run(self._match, data)

    def _match(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        a, b = features_from_hloc(data, 0), features_from_hloc(data, 1)
        return matches_to_hloc(self.matcher(a, b), len(a))
