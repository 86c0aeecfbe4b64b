"""REKD for vismatch: copy this file to vismatch/im_models/rekd.py.

docs/integrations.md has the lines for vismatch's list of matchers.
"""

from vismatch import BaseMatcher

from rekd_hloc import Extractor, match_pair
from rekd_hloc.config import MatchConfig, get_preset, with_max_keypoints


class RekdMatcher(BaseMatcher):
    """REKD, HardNet, mutual nearest neighbours, and one rotation for all matches of a pair."""

    def __init__(self, device="cpu", max_num_keypoints=2048, preset="rekd-fast", **kwargs):
        super().__init__(device, **kwargs)
        config = with_max_keypoints(get_preset(preset), max_num_keypoints)
        self.extractor = Extractor.from_pretrained(preset, device=device, config=config)
        self.matching = MatchConfig(ratio=0.95)

    def _forward(self, img0, img1):
        first, second, pair = match_pair(self.extractor, img0.cpu(), img1.cpu(), self.matching)
        rows0, rows1 = pair["matches"].unbind(1)
        return (
            first["keypoints"][rows0],
            second["keypoints"][rows1],
            first["keypoints"],
            second["keypoints"],
            first["descriptors"],
            second["descriptors"],
            pair["scores"],
        )
