"""The detector: an image gives oriented keypoints.

Composes the outer pyramid, the network, local maxima and orientation reading; nothing is decided
here that those modules do not name.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rekd_hloc.config import DetectorConfig
from rekd_hloc.features.detector.keypoints import (
    find_duplicates,
    find_local_maxima,
    refine_positions,
)
from rekd_hloc.features.detector.level import Level
from rekd_hloc.features.detector.mask import patches_are_usable
from rekd_hloc.features.detector.network import Rekd
from rekd_hloc.features.detector.orientation import angle_from_bin, find_peak, read_logits
from rekd_hloc.features.detector.pyramid import (
    iterate_levels,
    select_within_budgets,
    strongest_of_each_level,
)
from rekd_hloc.features.precision import full_precision, low_precision
from rekd_hloc.types import Keypoints


@dataclass(frozen=True)
class Candidates:
    """Keypoints before selection (positions in float64), and the pyramid level of each."""

    keypoints: Keypoints
    level: Int64[Tensor, " keypoint"]

    def __getitem__(self, index: Int64[Tensor, " selected"] | Bool[Tensor, " keypoint"]) -> Self:
        """Those that an integer or boolean index tensor selects."""
        return replace(self, keypoints=self.keypoints[index], level=self.level[index])


class Detector:
    """Finds oriented keypoints with a trained network.

    Args:
        network: in eval mode; its device is where everything runs.
        config: pyramid, suppression and orientation options.
    """

    def __init__(self, network: Rekd, config: DetectorConfig) -> None:
        self.network = network
        self.config = config

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        return next(self.network.parameters()).device

    @torch.inference_mode()
    def detect(
        self,
        image: Float[Tensor, "height width"],
        is_usable: Bool[Tensor, "height width"] | None = None,
        support: float = 0.0,
        *,
        oriented: bool = True,
    ) -> Keypoints:
        """Keypoints in pixels of the image, strongest first; a constant image has none.

        Args:
            image: grey, 0..1.
            is_usable: False where a pixel must be ignored; no patch of a keypoint touches one.
            support: side of the square patch of a keypoint of scale 1, in pixels.
            oriented: whether patches are turned by the keypoint's angle.
        """
        candidates = self.find_candidates(image, every=is_usable is not None)
        if is_usable is not None:
            usable = is_usable.to(self.device)
            found = candidates.keypoints
            candidates = candidates[patches_are_usable(found, usable, support, oriented=oriented)]
            candidates = candidates[
                strongest_of_each_level(
                    candidates.level, candidates.keypoints.score, self.config.max_keypoints
                )
            ]
        keypoints, level = candidates.keypoints, candidates.level
        if radius := self.config.duplicate_radius_px:
            keep = ~find_duplicates(
                keypoints.xy, level, keypoints.scale, keypoints.score, radius_px=radius
            )
            keypoints, level = keypoints[keep], level[keep]
        chosen = keypoints[select_within_budgets(level, keypoints.score, self.config)]
        return replace(chosen, xy=chosen.xy.float())

    def find_candidates(
        self, image: Float[Tensor, "height width"], *, every: bool = False
    ) -> Candidates:
        """Local maxima of all levels: ``max_keypoints`` of each level at most, or every one."""
        config = self.config
        grey = image.to(self.device)[None, None]
        found = [Keypoints.empty(self.device)]
        numbers = [torch.zeros(0, dtype=torch.int64, device=self.device)]
        if bool(grey.min() == grey.max()):  # no maximum anywhere, and nothing to divide by
            return Candidates(found[0], numbers[0])
        if config.normalise_by_max:
            grey = (grey.double() * 255).round()
            grey = grey / grey.max().clamp(min=1)
        original: tuple[Level, list[Tensor]] | None = None
        for level in iterate_levels(grey, config):
            score, logits = self._run_network(level.image)
            if level.number == 0:
                original = (level, logits)
            keypoints = self._level_keypoints(level, score[0, 0], logits, every)
            found.append(keypoints)
            numbers.append(torch.full((len(keypoints),), level.number, device=self.device))
        keypoints = Keypoints.concatenate(found)
        if config.orientation_level == "original" and original is not None:
            level, logits = original
            angle = self._read_angles(level, logits, level.from_image(keypoints.xy))
            keypoints = replace(keypoints, angle=angle)
        return Candidates(keypoints, torch.cat(numbers))

    def _run_network(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        precision = low_precision if self.config.autocast else full_precision
        with precision(self.device):
            return self.network.level_maps(image)

    def _level_keypoints(
        self, level: Level, score: Tensor, logits: list[Tensor], every: bool
    ) -> Keypoints:
        config = self.config
        peaks = find_local_maxima(
            score,
            window_px=config.nms_window_px,
            border_px=config.border_px,
            threshold=config.score_threshold,
            min_relief=config.min_relief,
        )
        if not every:
            peaks = peaks[: config.max_keypoints]
        if config.subpixel:
            xy, strength = refine_positions(score, peaks)
        else:
            xy, strength = peaks, score[peaks[:, 1], peaks[:, 0]]
        xy = xy.double()
        own = config.orientation_level == "own"
        angle = self._read_angles(level, logits, xy) if own else torch.zeros_like(strength)
        scale = torch.full_like(strength, level.scale)
        return Keypoints(xy=level.to_image(xy), scale=scale, angle=angle, score=strength)

    def _read_angles(self, level: Level, logits: list[Tensor], xy: Tensor) -> Tensor:
        config = self.config
        height, width = level.image.shape[2:]
        histogram = read_logits(
            logits,
            xy + config.orientation_shift_px,
            (width, height),
            nearest=config.orientation_read == "nearest",
        )
        position = find_peak(histogram, sub_bin=config.orientation_peak == "circular")
        return angle_from_bin(position, histogram.shape[1])
