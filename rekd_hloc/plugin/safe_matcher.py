"""Keeps every failure of a matcher away from hloc, where an exception hangs the process for ever.

hloc writes matches from threads that only its normal end stops. So a pair that cannot be matched
gets a prediction without a match, of the right length, and each reason is warned of once.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from rekd_hloc.plugin.confs import MAX_KEYPOINTS
from rekd_hloc.plugin.conversion import Tensors, check_length, count_keypoints, no_matches

logger = logging.getLogger(__name__)

MIN_KEYPOINTS = 2
"""A single keypoint has no other to agree with."""
REMEDY = (
    "extract with a conf that stores orientations and scales (rekd... or sift), "
    "or use a matcher that needs neither, like NN-mutual"
)
"""What to do about features that lack what a matcher needs."""


class SafeMatcher:
    """Runs one matcher and catches what goes wrong.

    Args:
        name: of the matcher, for warnings.
        needs: what each image's features must hold, for example ``("descriptors", "oris")``.
    """

    def __init__(self, name: str, needs: Sequence[str]) -> None:
        self.name = name
        self.needs = needs
        self.warned: set[str] = set()

    def run(self, matcher: Callable[[Tensors], Tensors], data: Mapping[str, Tensor]) -> Tensors:
        """Return the matcher's prediction, or one without matches if it fails. Never raises."""
        try:
            obstacle = self._find_obstacle(data)
            if obstacle is not None:
                self._warn(obstacle, obstacle)
                return no_matches(count_keypoints(data, 0))
            prediction = matcher(dict(data))
            check_length(prediction, count_keypoints(data, 0))
            return self._drop_large_index(prediction)
        except Exception as error:  # whatever it is, hloc must get a prediction
            self._warn(type(error).__name__, f"{type(error).__name__}: {error}")
            return no_matches(count_keypoints(data, 0))

    def _find_obstacle(self, data: Mapping[str, Tensor]) -> str | None:
        missing = [n for n in self.needs if f"{n}0" not in data or f"{n}1" not in data]
        if missing:
            return f"the features have no {', '.join(missing)}; {REMEDY}"
        if min(count_keypoints(data, 0), count_keypoints(data, 1)) < MIN_KEYPOINTS:
            return "an image has fewer than 2 keypoints; look at it, or leave it out of the pairs"
        return None

    def _drop_large_index(self, prediction: Tensors) -> Tensors:
        partner = prediction["matches0"]
        if not bool((partner > MAX_KEYPOINTS).any()):
            return prediction
        reason = f"hloc cannot store matches beyond keypoint {MAX_KEYPOINTS}; extract fewer"
        self._warn(reason, reason)
        return prediction | {"matches0": torch.where(partner > MAX_KEYPOINTS, -1, partner)}

    def _warn(self, kind: str, reason: str) -> None:
        if kind not in self.warned:
            self.warned.add(kind)
            logger.warning("%s drops matches: %s", self.name, reason)
