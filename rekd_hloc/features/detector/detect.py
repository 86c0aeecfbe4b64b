"""The detector: an image gives oriented keypoints.

Composes the outer pyramid, the network, local maxima and orientation reading; nothing is decided
here that those modules do not name. The protocol of the paper's published code is in
:mod:`rekd_hloc.features.detector.paper`.
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
from rekd_hloc.features.detector.mask import patches_are_usable
from rekd_hloc.features.detector.network import DetectorNetwork
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
        """Return the candidates that an integer or boolean index tensor selects."""
        return replace(self, keypoints=self.keypoints[index], level=self.level[index])

    @classmethod
    def concatenate(cls, of_levels: dict[int, Keypoints], device: torch.device) -> Self:
        """Join the keypoints of each level, given by its number."""
        numbers = [torch.full((len(k),), number) for number, k in of_levels.items()]
        level = torch.cat([torch.zeros(0, dtype=torch.int64), *numbers])
        keypoints = Keypoints.concatenate([Keypoints.empty(device), *of_levels.values()])
        return cls(keypoints, level.to(device))


class Detector:
    """Finds oriented keypoints with a trained network.

    Args:
        network: its device is where everything runs.
        config: pyramid, suppression and budget.
    """

    def __init__(self, network: DetectorNetwork, config: DetectorConfig) -> None:
        self.network = network
        self.config = config

    @property
    def device(self) -> torch.device:
        """Return where the network runs."""
        return self.network.device

    @torch.inference_mode()
    def detect(
        self,
        image: Float[Tensor, "height width"],
        is_usable: Bool[Tensor, "height width"] | None = None,
        patch_size_px: float = 0.0,
        *,
        oriented: bool = True,
    ) -> Keypoints:
        """Return keypoints in pixels of the image, strongest first; a constant image has none.

        Args:
            image: grey, 0..1.
            is_usable: False where a pixel must be ignored; no patch of a keypoint touches one.
            patch_size_px: side of the square patch of a keypoint of scale 1.
            oriented: whether patches are rotated by the keypoint's angle.
        """
        candidates = self.find_candidates(image, every=is_usable is not None)
        if is_usable is not None:
            usable = patches_are_usable(
                candidates.keypoints, is_usable.to(self.device), patch_size_px, oriented=oriented
            )
            candidates = self._strongest(candidates[usable])
        candidates = self._without_duplicates(candidates)
        score = candidates.keypoints.score
        selected = select_within_budgets(candidates.level, score, self.config)
        keypoints = candidates.keypoints[selected]
        return replace(keypoints, xy=keypoints.xy.float())

    def find_candidates(
        self, image: Float[Tensor, "height width"], *, every: bool = False
    ) -> Candidates:
        """Local maxima of all levels: ``max_keypoints`` of each level at most, or every one."""
        grey = image.to(self.device)[None, None]
        of_levels: dict[int, Keypoints] = {}
        for level in [] if is_constant(grey) else iterate_levels(grey, self.config):
            score_map, logits = self.run_network(level.image)
            xy, score = self.find_peaks(score_map[0, 0], every=every)
            height, width = level.image.shape[2:]
            histogram = read_logits(logits, xy, (width, height))
            angle = angle_from_bin(find_peak(histogram), histogram.shape[1])
            scale = torch.full_like(score, level.scale)
            of_levels[level.number] = Keypoints(level.to_image(xy), scale, angle, score)
        return Candidates.concatenate(of_levels, self.device)

    def run_network(
        self, image: Float[Tensor, "1 1 height width"]
    ) -> tuple[Float[Tensor, "1 1 height width"], list[Tensor]]:
        """Return the score map and the orientation logits, in the configured precision."""
        precision = low_precision if self.config.autocast else full_precision
        with precision(self.device):
            return self.network.level_maps(image)

    def find_peaks(
        self, score: Float[Tensor, "height width"], *, every: bool
    ) -> tuple[Float[Tensor, "keypoint 2"], Float[Tensor, " keypoint"]]:
        """Positions (float64) and scores of a map's maxima: ``max_keypoints``, or every one."""
        config = self.config
        peaks = find_local_maxima(
            score,
            window_px=config.nms_window_px,
            border_px=config.border_px,
            threshold=config.score_threshold,
            min_prominence=config.min_prominence,
        )
        if not every:
            peaks = peaks[: config.max_keypoints]
        if not config.subpixel:
            return peaks.double(), score[peaks[:, 1], peaks[:, 0]]
        xy, height = refine_positions(score, peaks)
        return xy.double(), height

    def _strongest(self, candidates: Candidates) -> Candidates:
        score = candidates.keypoints.score
        return candidates[
            strongest_of_each_level(candidates.level, score, self.config.max_keypoints)
        ]

    def _without_duplicates(self, candidates: Candidates) -> Candidates:
        radius = self.config.duplicate_radius_px
        if radius == 0:
            return candidates
        k = candidates.keypoints
        is_duplicate = find_duplicates(k.xy, candidates.level, k.scale, k.score, radius_px=radius)
        return candidates[~is_duplicate]


def make_detector(network: DetectorNetwork, config: DetectorConfig) -> Detector:
    """Make the detector of the configured protocol."""
    from rekd_hloc.features.detector.paper import PaperDetector  # which builds on this module

    return (
        PaperDetector(network, config) if config.protocol == "paper" else Detector(network, config)
    )


def is_constant(grey: Float[Tensor, "1 1 height width"]) -> bool:
    """Say whether an image is of one grey: it has no maximum, and no contrast to divide by."""
    return bool(grey.min() == grey.max())
