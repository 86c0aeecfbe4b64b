"""The detector: an image gives oriented keypoints.

Composes the outer pyramid, the network, local maxima and orientation reading; nothing is decided
here that those modules do not name.
"""

import contextlib
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rekd_hloc.config import DetectorConfig
from rekd_hloc.detector.keypoints import find_duplicates, find_local_maxima, refine_positions
from rekd_hloc.detector.network import Rekd
from rekd_hloc.detector.orientation import angle_from_bin, find_peak, read_logits
from rekd_hloc.detector.pyramid import Level, iterate_levels, select_within_budgets
from rekd_hloc.types import Keypoints

DUPLICATE_RADIUS_PX = 2.5
"""Two levels' points closer than this, in pixels of the coarser level, are one structure."""


@dataclass(frozen=True)
class Candidates:
    """Keypoints before selection, and the pyramid level of each."""

    keypoints: Keypoints
    level: Int64[Tensor, " keypoint"]


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
    ) -> Keypoints:
        """Keypoints in pixels of the image, strongest first.

        Args:
            image: grey, 0..1.
            is_usable: False where a pixel must be ignored; no patch of a keypoint touches one.
            support: side of the square patch of a keypoint of scale 1, in pixels.
        """
        candidates = self.find_candidates(image)
        keypoints, level = candidates.keypoints, candidates.level
        if is_usable is not None and len(keypoints) > 0:
            from rekd_hloc.detector.mask import patches_are_usable

            keep = patches_are_usable(keypoints, is_usable.to(keypoints.xy.device), support)
            keypoints, level = keypoints[keep], level[keep]
        if self.config.suppress_across_levels:
            keep = ~find_duplicates(
                keypoints.xy, level, keypoints.scale, keypoints.score, radius_px=DUPLICATE_RADIUS_PX
            )
            keypoints, level = keypoints[keep], level[keep]
        return keypoints[select_within_budgets(level, keypoints.score, self.config)]

    def find_candidates(self, image: Float[Tensor, "height width"]) -> Candidates:
        """All local maxima of all levels, at most ``max_keypoints`` of each level."""
        grey = image.to(self.device)[None, None]
        if self.config.normalise_by_max:
            grey = grey / grey.max().clamp(min=1e-6)
        found: list[Keypoints] = []
        numbers: list[Tensor] = []
        original: tuple[Level, list[Tensor]] | None = None
        for level in iterate_levels(grey, self.config):
            score, logits = self._run_network(level.image)
            if level.number == 0:
                original = (level, logits)
            keypoints = self._level_keypoints(level, score[0, 0], logits)
            found.append(keypoints)
            numbers.append(torch.full((len(keypoints),), level.number, device=self.device))
        if not found:
            return Candidates(Keypoints.empty(self.device), torch.zeros(0, dtype=torch.int64))
        keypoints = Keypoints.concatenate(found)
        if self.config.orientation_level == "original" and original is not None:
            level, logits = original
            angle = self._read_angles(level, logits, level.from_image(keypoints.xy))
            keypoints = Keypoints(keypoints.xy, keypoints.scale, angle, keypoints.score)
        return Candidates(keypoints, torch.cat(numbers))

    def _run_network(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        cast = torch.autocast(self.device.type, torch.bfloat16) if self.config.autocast else None
        with cast or contextlib.nullcontext():
            maps = self.network.level_maps(image)
        return maps

    def _level_keypoints(self, level: Level, score: Tensor, logits: list[Tensor]) -> Keypoints:
        config = self.config
        peaks = find_local_maxima(
            score,
            window_px=config.nms_window_px,
            border_px=config.border_px,
            threshold=config.score_threshold,
        )[: config.max_keypoints]
        if config.subpixel:
            xy, strength = refine_positions(score, peaks)
        else:
            xy, strength = peaks.to(score.dtype), score[peaks[:, 1], peaks[:, 0]]
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
