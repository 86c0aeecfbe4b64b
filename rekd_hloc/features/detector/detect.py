"""The detector: an image gives oriented keypoints.

Composes the outer pyramid, the network, local maxima and orientation reading; nothing is decided
here that those modules do not name. The protocol of the paper's published code is in
:mod:`rekd_hloc.features.detector.paper`.
"""

import contextlib
from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rekd_hloc.config import DetectorConfig
from rekd_hloc.devices import exact_device
from rekd_hloc.features.detector import tiles
from rekd_hloc.features.detector.keypoints import (
    find_duplicates,
    find_local_maxima,
    read_around,
    refine_positions,
)
from rekd_hloc.features.detector.mask import PatchMask
from rekd_hloc.features.detector.network import DetectorNetwork, TiledNetwork
from rekd_hloc.features.detector.normalise import is_constant
from rekd_hloc.features.detector.orientation import read_angles, read_logits
from rekd_hloc.features.detector.peak_shape import ShapedKeypoints
from rekd_hloc.features.detector.pyramid import (
    Level,
    iterate_levels,
    select_within_budgets,
    strongest_of_each_level,
)
from rekd_hloc.features.detector.shared_pyramid import LevelMaps, pyramid_network
from rekd_hloc.features.detector.tile_peaks import find_tile_peaks, rank_peaks, tile_margin_px
from rekd_hloc.features.detector.tiles import Pixels, Region, RegionMaps
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
        if not of_levels:
            return cls(Keypoints.empty(device), torch.zeros(0, dtype=torch.int64, device=device))
        numbers = [torch.full((len(k),), number) for number, k in of_levels.items()]
        keypoints = Keypoints.concatenate(list(of_levels.values()))
        return cls(keypoints.to(device), torch.cat(numbers).to(device))


class Detector:
    """Finds oriented keypoints with a trained network.

    Args:
        network: its device is where everything runs.
        config: pyramid, suppression and budget.
        with_shapes: return :class:`ShapedKeypoints`, which a ranking needs.
        with_directions: measure the directions of edges about them, too.
    """

    def __init__(
        self,
        network: DetectorNetwork,
        config: DetectorConfig,
        *,
        with_shapes: bool = False,
        with_directions: bool = True,
    ) -> None:
        self.network = network
        self.config = config
        self.with_shapes = with_shapes
        self.with_directions = with_directions

    @property
    def device(self) -> torch.device:
        """Return where the network runs."""
        return self.network.device

    @property
    def exact_device(self) -> torch.device:
        """Return where all but the network runs, and where the keypoints are."""
        return exact_device(self.device)

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
        mask = None
        if is_usable is not None:
            mask = PatchMask(is_usable.to(self.exact_device), patch_size_px, oriented=oriented)
        candidates = self._without_duplicates(self.find_candidates(image, mask))
        score = candidates.keypoints.score
        selected = select_within_budgets(candidates.level, score, self.config)
        keypoints = candidates.keypoints[selected]
        if isinstance(keypoints, ShapedKeypoints):
            keypoints = keypoints.in_image(
                image.to(self.exact_device), with_directions=self.with_directions
            )
        return replace(keypoints, xy=keypoints.xy.float())

    def find_candidates(
        self, image: Float[Tensor, "height width"], mask: PatchMask | None = None
    ) -> Candidates:
        """Return the best maxima of each level that the mask leaves, ``max_keypoints`` at most."""
        grey = image.to(self.exact_device)[None, None]
        maps = LevelMaps(self.network, self.config)
        levels = [] if is_constant(grey) else iterate_levels(grey, self.config, maps.inner_scales)
        of_levels = {level.number: self.find_in_level(level, mask, maps) for level in levels}
        candidates = Candidates.concatenate(of_levels, self.exact_device)
        return self._strongest(candidates) if mask is not None else candidates

    def find_in_level(
        self, level: Level, mask: PatchMask | None, level_maps: LevelMaps | None = None
    ) -> Keypoints:
        """Return the maxima of a level that the mask leaves, in pixels of the image.

        They are the ``max_keypoints`` best ones; with a mask there may be more. ``level_maps`` has
        what was computed for larger levels.
        """
        network = self.tiled_network(level)
        if network is not None:
            return self.find_in_tiles(network, level, mask)
        return self.find_in_maps(level, *self.run_network(level, level_maps), mask)

    def tiled_network(self, level: Level) -> TiledNetwork | None:
        """Return the network if the level is to be computed in tiles."""
        if level.in_tiles and isinstance(self.network, TiledNetwork):
            return self.network
        return None

    def find_in_maps(
        self,
        level: Level,
        score_map: Float[Tensor, "1 1 height width"],
        logits: list[Tensor],
        mask: PatchMask | None,
        *,
        angles_follow: bool = False,
    ) -> Keypoints:
        """Return the keypoints of a level from its maps, as :meth:`find_in_level` does.

        With ``angles_follow`` angles are zero, and a mask of oriented patches is yet to be applied.
        """
        xy, score = self.find_peaks(score_map[0, 0], every=mask is not None)
        keypoints = level.place(xy, score, torch.zeros_like(score))
        if not angles_follow:
            height, width = level.pixels.size
            shared = pyramid_network(self.network) is not None
            histogram = read_logits(logits, xy, (width, height), align_corners=not shared)
            keypoints = self._read_histograms(keypoints, histogram, score_map[0, 0], xy)
        if mask is None or (angles_follow and mask.oriented):
            return keypoints
        return keypoints[mask(keypoints)]

    def precision(self) -> contextlib.AbstractContextManager[None]:
        """Return the context in which the network runs as configured."""
        precision = low_precision if self.config.autocast else full_precision
        return precision(self.device)

    def run_network(
        self, level: Level, level_maps: LevelMaps | None = None
    ) -> tuple[Float[Tensor, "1 1 height width"], list[Tensor]]:
        """Return the score map and the orientation logits, in the configured precision."""
        level_maps = level_maps or LevelMaps(self.network, self.config)
        with self.precision():
            score, logits = level_maps.compute(level.pixels)
        return score.to(self.exact_device), [level.to(self.exact_device) for level in logits]

    def run_on_region(self, network: TiledNetwork, pixels: Pixels, region: Region) -> RegionMaps:
        """Return the maps of a part of a level, in the configured precision."""
        with self.precision():
            return network.region_maps(pixels, region).to(self.exact_device)

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

    def find_in_tiles(
        self,
        network: TiledNetwork,
        level: Level,
        mask: PatchMask | None,
        *,
        angles_follow: bool = False,
    ) -> Keypoints:
        """Return what :meth:`find_in_maps` does, in its order, from one tile after the other."""
        size, config = level.pixels.size, self.config
        found, responses, numbers = [], [], []
        for tile in tiles.iterate_tiles(size):
            seen = tile.grow(tile_margin_px(config), size)
            maps = self.run_on_region(network, level.pixels, seen)
            peaks = find_tile_peaks(maps, tile, config, every=mask is not None)
            keypoints = level.place(peaks.xy, peaks.score, torch.zeros_like(peaks.score))
            if not angles_follow:
                histogram = maps.read_logits(peaks.xy)
                xy = peaks.xy - peaks.xy.new_tensor([seen.left, seen.top])
                keypoints = self._read_histograms(keypoints, histogram, maps.score[0, 0], xy)
            if mask is not None and not (angles_follow and mask.oriented):
                usable = torch.nonzero(mask(keypoints))[:, 0]
                best = torch.argsort(keypoints.score[usable], descending=True, stable=True)
                usable = usable[best[: config.max_keypoints]]
                keypoints, peaks = keypoints[usable], peaks[usable]
            found.append(keypoints)
            responses.append(peaks.response)
            numbers.append(peaks.number)
        order = rank_peaks(torch.cat(responses), torch.cat(numbers))
        limit = config.max_keypoints if mask is None else len(order)
        return Keypoints.concatenate(found)[order[:limit]]

    def _read_histograms(
        self,
        keypoints: Keypoints,
        logits: Float[Tensor, "keypoint bin"],
        score_map: Float[Tensor, "height width"],
        xy: Float[Tensor, "keypoint 2"],
    ) -> Keypoints:
        """Give keypoints their angles, and their shapes if asked for; ``xy`` are in the map."""
        keypoints = replace(keypoints, angle=read_angles(logits))
        if not self.with_shapes:
            return keypoints
        return ShapedKeypoints.measure(keypoints, read_around(score_map, xy.round().long()), logits)

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


def make_detector(
    network: DetectorNetwork,
    config: DetectorConfig,
    *,
    with_shapes: bool = False,
    with_directions: bool = True,
) -> Detector:
    """Make the detector of the configured protocol; that of the paper measures no shapes.

    Raises:
        ValueError: the protocol has a pyramid of its own, and the network shares one.
    """
    from rekd_hloc.features.detector.paper import PaperDetector  # which builds on this module

    kind = PaperDetector if config.protocol == "paper" else Detector
    if kind is PaperDetector and pyramid_network(network) is not None:
        raise ValueError(
            "protocol must be default with weights of a shared pyramid, got paper; "
            "give protocol=default, or other weights"
        )
    return kind(network, config, with_shapes=with_shapes, with_directions=with_directions)
