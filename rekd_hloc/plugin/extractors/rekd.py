"""hloc's extractor ``rekd``: oriented keypoints with HardNet descriptors."""

from typing import Any

from hloc.utils.base_model import BaseModel
from torch import Tensor

from rekd_hloc.config import get_preset, load_config, with_max_keypoints
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.plugin.confs import DETECTION_NOISE_PX, MAX_KEYPOINTS
from rekd_hloc.plugin.conversion import features_to_hloc


class Rekd(BaseModel):  # type: ignore[misc]  # hloc carries no types
    """Conf: ``preset``, ``max_keypoints`` (-1 for all that hloc can store), and ``options``.

    ``options`` changes the preset, for example ``{"detector.border_px": 20}``.
    """

    default_conf = {"preset": "rekd", "max_keypoints": 2048, "options": {}}
    required_inputs = ["image"]
    detection_noise = DETECTION_NOISE_PX

    def _init(self, conf: dict[str, Any]) -> None:
        count = MAX_KEYPOINTS if conf["max_keypoints"] == -1 else conf["max_keypoints"]
        if not 1 <= count <= MAX_KEYPOINTS:
            raise ValueError(
                f"max_keypoints must be -1 or 1..{MAX_KEYPOINTS}, which is what hloc can index, "
                f"got {count}"
            )
        # hloc has resized the image; to do it again would change what its conf promises
        options = {**conf["options"], "max_side_px": 0}
        overrides = [f"{key}={value}" for key, value in options.items()]
        config = load_config(get_preset(conf["preset"]), overrides=overrides)
        self.extractor = Extractor.from_pretrained(
            conf["preset"], device="cpu", config=with_max_keypoints(config, count)
        )
        # parts of this module, so that they move with it to hloc's device
        self.network = self.extractor.detector.network
        self.descriptor = self.extractor.descriptor

    def _forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        image = data["image"][0].clamp(0, 1)  # some of hloc's interpolations overshoot
        grey_or_rgb = image[0] if len(image) == 1 else image.permute(1, 2, 0)
        return features_to_hloc(self.extractor(grey_or_rgb))
