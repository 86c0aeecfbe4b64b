"""hloc's matcher ``nearest_rekd``: mutual nearest neighbours that agree on one rotation."""

from typing import Any

from hloc.utils.base_model import BaseModel
from torch import Tensor

from rekd_hloc.matching.match import match
from rekd_hloc.plugin.answers import matches_to_hloc
from rekd_hloc.plugin.features import features_from_hloc
from rekd_hloc.plugin.filtering import ORIENTED_REMEDY, read_options
from rekd_hloc.plugin.safe_matcher import SafeMatcher


class NearestRekd(BaseModel):  # type: ignore[misc]  # hloc carries no types
    """Conf: the fields of ``MatchConfig``: ``ratio``, ``filter``, ``tolerance_deg`` and so on."""

    def _init(self, conf: dict[str, Any]) -> None:
        self.config = read_options(conf)
        needs = ["keypoints", "descriptors"] + ["oris"] * (self.config.filter != "none")
        self.guard = SafeMatcher("NN-rekd", needs, ORIENTED_REMEDY)

    def _forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.guard.run(self._match, data)

    def _match(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        a, b = features_from_hloc(data, 0), features_from_hloc(data, 1)
        return matches_to_hloc(match(a, b, self.config), len(a))
