"""hloc's matcher ``orientation_filter``: any other matcher, then agreement on one rotation."""

from typing import Any

from hloc import matchers
from hloc.utils.base_model import BaseModel, dynamic_load
from torch import Tensor

from rekd_hloc.plugin.filtering import ORIENTED_REMEDY, filter_answer, read_options
from rekd_hloc.plugin.safe_matcher import SafeMatcher


class OrientationFilter(BaseModel):  # type: ignore[misc]  # hloc carries no types
    """Conf: ``matcher`` (any matcher's conf), and the filter's fields of ``MatchConfig``."""

    default_conf = {"matcher": {"name": "nearest_neighbor", "do_mutual_check": True}}

    def _init(self, conf: dict[str, Any]) -> None:
        inner = conf["matcher"].get("model", conf["matcher"])
        self.config = read_options({k: v for k, v in conf.items() if k != "matcher"})
        self.matcher = dynamic_load(matchers, inner["name"])(dict(inner)).eval()
        needs = ["keypoints", "oris"] if self.config.filter != "none" else []
        self.guard = SafeMatcher(f"orientation_filter on {inner['name']}", needs, ORIENTED_REMEDY)

    def _forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.guard.run(self._match, data)

    def _match(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        answer = self.matcher(dict(data))  # a copy: LightGlue's wrapper changes its argument
        return filter_answer(answer, data, self.config)
