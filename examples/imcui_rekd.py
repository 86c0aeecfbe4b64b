"""REKD for imcui (image-matching-webui): copy this file to imcui/hloc/extractors/rekd.py.

docs/integrations.md has the entries for imcui's tables of extractors and models.
"""

import math

from rekd_hloc import Extractor
from rekd_hloc.config import get_preset, with_max_keypoints

from ..utils.base_model import BaseModel  # noqa: TID252  (as imcui's own extractors)


class Rekd(BaseModel):
    """Keypoints with scales and angles, and HardNet descriptors of rotated patches."""

    default_conf = {"preset": "rekd-fast", "max_keypoints": 2048}
    required_inputs = ["image"]

    def _init(self, conf):
        config = with_max_keypoints(get_preset(conf["preset"]), conf["max_keypoints"])
        self.extractor = Extractor.from_pretrained(conf["preset"], config=config)

    def _forward(self, data):
        image = data["image"]
        found = {
            name: rows.to(image.device) for name, rows in self.extractor.extract(image).items()
        }
        return {
            "keypoints": found["keypoints"],
            "scores": found["keypoint_scores"],
            "descriptors": found["descriptors"].transpose(1, 2),
            "scales": found["scales"],
            "oris": found["oris"] * (180 / math.pi),
        }
