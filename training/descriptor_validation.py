"""How well a descriptor matches held-out images, compared with RootSIFT on the same keypoints.

Each held-out image gives an oriented pair (any rotation) and an upright pair (hardly rotated) under
a known homography. All descriptors describe the same keypoints and go through the same matcher.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluation.extractors.registry import to_root
from rekd_hloc.features.descriptor.hardnet import describe
from rekd_hloc.features.descriptor.patches import cut_patches
from rekd_hloc.features.descriptor.support_hardnet import ONE_SUPPORT, supports_of
from rekd_hloc.features.detector.detect import Detector
from rekd_hloc.images import read_color
from rekd_hloc.matching.nearest import match_nearest
from rekd_hloc.types import Keypoints
from training.tracks import TrackConfig, match_by_map, warp_keypoints
from training.warps import draw_view, plain_view

CORRECT_PX = 3.0
"""Largest error of a correct match, in pixels, times the keypoint's scale where that is above 1."""
SIFT_SIGMA = 1.6
SIFT_LAYERS = 3


@dataclass(frozen=True)
class Side:
    """Hold one image of a pair: its keypoints, their patches and their RootSIFT descriptors."""

    keypoints: Keypoints
    patches: Float[Tensor, "keypoint support 32 32"]
    root_sift: Float[Tensor, "keypoint 128"]
    supports: tuple[float, ...] = ONE_SUPPORT
    """Factors on the patch's side, of each channel of ``patches``."""

    def patches_of(self, supports: Sequence[float]) -> Float[Tensor, "keypoint channel 32 32"]:
        """Return the channels that a network asks for.

        Raises:
            ValueError: the patches were cut without one of these supports.
        """
        lacking = sorted(set(supports) - set(self.supports))
        if lacking:
            raise ValueError(
                f"a descriptor sees supports {list(supports)}, and the validation's patches have "
                f"{list(self.supports)}: add {lacking} to tracks.supports"
            )
        return self.patches[:, [self.supports.index(factor) for factor in supports]]


@dataclass(frozen=True)
class ValidationPair:
    """Hold two views of an image or of a scene, and what is true of their keypoints."""

    a: Side
    b: Side
    a_in_b: Float[Tensor, "keypoint_a 2"]
    """Where the keypoints of a lie in b."""
    allowed_px: Float[Tensor, "keypoint_a keypoint_b"]
    """Largest distance from there of a correct match."""
    is_judged: Bool[Tensor, " keypoint_a"]
    """False where that place is not known; matches from there count for nothing."""
    is_same_point: Bool[Tensor, "keypoint_a keypoint_b"]
    """True where two keypoints are at the same point, whatever their scale and angle."""
    partner: Int64[Tensor, " keypoint_a"]
    """The keypoint of b that agrees in position, scale and angle, or -1."""


@dataclass(frozen=True)
class MatchingQuality:
    """Shares in [0, 1], means over pairs."""

    precision: float
    """Share of mutual nearest neighbours that are correct."""
    recall: float
    """Correct matches per keypoint that both views have."""
    average_precision: float
    """Area under the curve of precision over recall, matches in order of their score."""
    fpr95: float
    """Share of wrong pairs above the similarity that 95 % of the right pairs reach."""


Qualities = dict[str, MatchingQuality]
"""By kind of pair: ``oriented``, ``upright``, and ``real`` where there are scenes."""
Describe = Callable[[Side], Tensor]
"""Gives descriptors of unit length for the keypoints of a side."""


def make_pairs(
    paths: Sequence[Path],
    detector: Detector,
    config: TrackConfig,
    *,
    upright: bool,
    max_keypoints: int,
    seed: int,
) -> list[ValidationPair]:
    """Make one pair of each image."""
    pairs = []
    for path in paths:
        image = read_color(path)
        rng = np.random.default_rng([seed, int(upright), *path.name.encode()])
        views = [plain_view(image), draw_view(rng, image, config.warps, upright=upright)]
        sides = [
            make_side(view.grey, detector, config, upright=upright, max_keypoints=max_keypoints)
            for view in views
        ]
        pairs.append(_pair(sides, torch.from_numpy(views[1].view_from_image), config, upright))
    return pairs


def evaluate(pairs: Sequence[ValidationPair], descriptors: Describe) -> MatchingQuality:
    """Match every pair by the descriptors that a function gives, and average over pairs.

    A side that several pairs share is described once.
    """
    described: dict[int, Tensor] = {}

    def describe_once(side: Side) -> Tensor:
        if id(side) not in described:
            described[id(side)] = descriptors(side)
        return described[id(side)]

    values = [_evaluate_pair(pair, *map(describe_once, (pair.a, pair.b))) for pair in pairs]
    means = np.mean(values, axis=0) if values else np.zeros(4)
    return MatchingQuality(*(float(v) for v in means))


@dataclass(frozen=True)
class ValidationSet:
    """The pairs of held-out images, by kind."""

    pairs: Mapping[str, Sequence[ValidationPair]]

    def with_real(self, pairs: Sequence[ValidationPair]) -> Self:
        """Return the set with pairs of real photos, if there are any, as a further kind."""
        return replace(self, pairs={**self.pairs, "real": pairs}) if pairs else self

    @classmethod
    def make(
        cls,
        paths: Sequence[Path],
        detector: Detector,
        config: TrackConfig,
        *,
        max_keypoints: int,
        seed: int,
    ) -> Self:
        """Make an oriented and an upright pair of each image.

        Raises:
            ValueError: there are no images.
        """
        if not paths:
            raise ValueError("no image falls into the validation tenth; give more images")
        pairs = {
            kind: make_pairs(
                paths,
                detector,
                config,
                upright=kind == "upright",
                max_keypoints=max_keypoints,
                seed=seed,
            )
            for kind in ("oriented", "upright")
        }
        return cls(pairs)

    def evaluate(self, descriptors: Describe) -> Qualities:
        """Evaluate descriptors on the pairs of each kind."""
        return {kind: evaluate(pairs, descriptors) for kind, pairs in self.pairs.items()}

    def evaluate_network(self, network: nn.Module) -> Qualities:
        """Evaluate a network, which is left in eval mode."""
        return self.evaluate(by_network(network.eval()))


def by_network(network: nn.Module, batch_size: int = 512) -> Describe:
    """Describe by a network in eval mode, on its device."""
    device, supports = next(network.parameters()).device, supports_of(network)
    return lambda side: describe(network, side.patches_of(supports).to(device), batch_size).cpu()


def by_root_sift(side: Side) -> Tensor:
    """Describe by RootSIFT."""
    return side.root_sift


def root_sift(
    grey: NDArray[np.uint8], keypoints: Keypoints, *, patch_size_px: float, oriented: bool
) -> Float[Tensor, "keypoint 128"]:
    """Compute RootSIFT by OpenCV at given keypoints, over the same square as a patch.

    SIFT's 4x4 cells are 3 sigma wide each, and OpenCV's size is 2 sigma: the square is 6 sizes.
    """
    points = []
    for xy, scale, angle in zip(
        keypoints.xy.tolist(), keypoints.scale.tolist(), keypoints.angle.tolist(), strict=True
    ):
        size = patch_size_px * scale / 6
        octaves = max(float(np.log2(size / 2 / SIFT_SIGMA)), -1.0)
        octave = int(np.floor(octaves))
        layer = 1 + min(int((octaves - octave) * SIFT_LAYERS), SIFT_LAYERS - 1)
        angle_deg = float(np.degrees(angle)) % 360 if oriented else 0.0
        code = (octave & 255) | (layer << 8)
        points.append(cv2.KeyPoint(xy[0], xy[1], size, angle_deg, 1.0, code))
    if not points:
        return torch.zeros(0, 128)
    computed, described = cv2.SIFT.create().compute(grey, points)
    assert len(computed) == len(points)
    return nn.functional.normalize(to_root(torch.from_numpy(described)), dim=1)


def make_side(
    grey: NDArray[np.uint8],
    detector: Detector,
    config: TrackConfig,
    *,
    upright: bool,
    max_keypoints: int,
) -> Side:
    """Detect the strongest keypoints of an image, and cut their patches."""
    image = torch.from_numpy(grey).float() / 255
    keypoints = detector.detect(image).to("cpu")
    keypoints = keypoints[torch.arange(min(len(keypoints), max_keypoints))]
    patches = cut_patches(
        image,
        keypoints,
        patch_size_px=config.patch_size_px,
        oriented=not upright,
        antialias=True,
        supports=config.supports,
    )
    sift = root_sift(grey, keypoints, patch_size_px=config.patch_size_px, oriented=not upright)
    return Side(keypoints, patches, sift, config.supports)


def _pair(
    sides: list[Side], b_from_a: Tensor, config: TrackConfig, upright: bool
) -> ValidationPair:
    a, b = sides[0].keypoints, sides[1].keypoints
    a_in_b = warp_keypoints(a, b_from_a).xy
    distance = torch.cdist(a_in_b, b.xy).nan_to_num(nan=torch.inf)
    allowed_px = CORRECT_PX * b.scale.clamp(min=1)[None].expand_as(distance)
    return ValidationPair(
        a=sides[0],
        b=sides[1],
        a_in_b=a_in_b,
        allowed_px=allowed_px,
        is_judged=torch.ones(len(a), dtype=torch.bool),
        is_same_point=distance <= allowed_px,
        partner=match_by_map(a, b, b_from_a, config, angles=not upright),
    )


def _evaluate_pair(
    pair: ValidationPair, of_a: Tensor, of_b: Tensor
) -> tuple[float, float, float, float]:
    matches = match_nearest(of_a, of_b)
    matches = matches[pair.is_judged[matches.index[:, 0]]]
    if len(matches) == 0:
        return 0.0, 0.0, 0.0, 1.0
    in_a, in_b = matches.index.unbind(dim=1)
    error = (pair.a_in_b[in_a] - pair.b.keypoints.xy[in_b]).norm(dim=1)
    correct = (error <= pair.allowed_px[in_a, in_b]).float()
    possible = max(int((pair.partner >= 0).sum()), 1)
    ranked = correct[torch.argsort(matches.score, descending=True, stable=True)]
    precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1)
    total = max(possible, int(correct.sum()))
    similarity = of_a @ of_b.T
    return (
        float(correct.mean()),
        float(correct.sum()) / total,
        float((precision * ranked).sum()) / total,
        _fpr95(similarity, pair),
    )


def _fpr95(similarity: Tensor, pair: ValidationPair) -> float:
    matched = torch.nonzero(pair.partner >= 0)[:, 0]
    right = similarity[matched, pair.partner[matched]]
    wrong = similarity[~pair.is_same_point & pair.is_judged[:, None]]
    if len(right) == 0 or len(wrong) == 0:
        return 1.0
    return float((wrong >= torch.quantile(right, 0.05)).float().mean())
