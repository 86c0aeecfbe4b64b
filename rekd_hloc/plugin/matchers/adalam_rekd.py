"""hloc's matcher ``adalam_rekd``: hloc's own AdaLAM, on any kornia, without its exceptions."""

import sys
from types import ModuleType
from typing import Any

import torch
from hloc.utils.base_model import BaseModel
from torch import Tensor

from rekd_hloc.plugin.safe_matcher import SafeMatcher

MOVED = "kornia.utils.helpers"
"""Module of kornia up to 0.8.2 from which hloc's AdaLAM takes one function."""


class AdalamRekd(BaseModel):  # type: ignore[misc]  # hloc carries no types
    """Conf: the options of hloc's ``adalam``."""

    def _init(self, conf: dict[str, Any]) -> None:
        options = {key: value for key, value in conf.items() if key != "name"}
        self.adalam = _load_adalam()({"name": "adalam", **options}).eval()
        remedy = "AdaLAM needs them; extract with rekd or sift, or match with NN-mutual"
        needs = ["keypoints", "descriptors", "scales", "oris"]
        self.guard = SafeMatcher("adalam-rekd", needs, remedy)

    def _forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.guard.run(self.adalam, data)


def _load_adalam() -> Any:
    """hloc's class; the function that newer versions of kornia lack is lent for its import."""
    try:
        from hloc.matchers.adalam import AdaLAM
    except ModuleNotFoundError as error:
        if error.name != MOVED:
            raise
        lent: Any = ModuleType(MOVED)
        lent.get_cuda_device_if_available = lambda: torch.device(
            "cuda:0" if torch.cuda.is_available() else "cpu"
        )
        sys.modules[MOVED] = lent
        try:
            from hloc.matchers.adalam import AdaLAM
        finally:
            del sys.modules[MOVED]
    return AdaLAM
