"""How good a detector is on held-out images, in metrics and in pictures.

Pairs come from the same generator as in training, from images that no step has seen, always the
same ones for one seed.
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rekd_hloc.features.detector.keypoints import find_local_maxima, refine_positions
from rekd_hloc.features.detector.network import Rekd
from rekd_hloc.features.detector.orientation import angle_from_bin, find_peak, read_logits
from rekd_hloc.geometry import TWO_PI, angle_difference, warp_points
from rekd_hloc.types import Keypoints, Matches
from rekd_hloc.viz.draw import draw_matches
from training.common.tensorboard_logger import Picture
from training.detector_config import TrainDetectorConfig
from training.pairs import ImageSet, PairBatch

NUM_POINTS = 60
NMS_WINDOW_PX = 9
BORDER_PX = 16
ORIENTATION_TOLERANCE_DEG = 15.0
DRAWN_PX = 3.0
"""A line is drawn between points that agree to this distance."""
NUM_HUES = 256


@dataclass(frozen=True)
class ValidationResult:
    """Shares in [0, 1] over all pairs, and the median angle error in degrees."""

    repeatability_3px: float
    """Share of the visible points of a with a point of b within 3 px of their warp."""
    repeatability_1px5: float
    """The same within 1.5 px."""
    orientation_accuracy: float
    """Share of the points repeated within 1.5 px whose angle is right within 15 degrees."""
    orientation_median_deg: float
    """Median angle error of the points repeated within 1.5 px."""

    @property
    def quality(self) -> float:
        """Return the score of a checkpoint: the share of points repeated with the right angle."""
        return self.repeatability_1px5 * self.orientation_accuracy


@dataclass(frozen=True)
class RepeatedPoints:
    """Points of a that b can see, as detected in a, and the point of b nearest to their warp."""

    xy_a: Float[Tensor, "point 2"]
    xy_b: Float[Tensor, "other 2"]
    nearest: Int64[Tensor, " point"]
    """Row of ``xy_b``; 0 if ``xy_b`` is empty."""
    distance_px: Float[Tensor, " point"]
    """Infinite if ``xy_b`` is empty."""
    angle_error_deg: Float[Tensor, " point"]
    """Error of the nearest point's angle, 0..180."""


@dataclass(frozen=True)
class ValidationSet:
    """The held-out images, and which pairs are drawn from them."""

    images: ImageSet
    num_pairs: int
    seed: int

    @classmethod
    def open(cls, config: TrainDetectorConfig, paths: Sequence[Path]) -> Self:
        """Read the images.

        Raises:
            ValueError: none of them can be used.
        """
        pairs = replace(config.pairs, crop_px=config.validation_crop_px)
        images = ImageSet(paths, pairs, min_images=1)
        return cls(images, config.num_validation_pairs, config.seed)

    def first_pair(self) -> PairBatch:
        """Return the pair that pictures show."""
        return self.images.batch(self.seed, 0, 1)


@torch.no_grad()
def validate(network: Rekd, images: ImageSet, *, num_pairs: int, seed: int) -> ValidationResult:
    """Run the network on ``num_pairs`` pairs of held-out images."""
    was_training = network.training
    network.eval()  # once for all pairs: e2cnn expands its filters at every change of mode
    counts = torch.zeros(3)
    errors: list[Tensor] = []
    for index in range(num_pairs):
        points = find_repeated(network, images.batch(seed, index, 1))
        close = points.distance_px <= 1.5
        counts += torch.tensor([len(close), (points.distance_px <= 3).sum(), close.sum()])
        errors.append(points.angle_error_deg[close])
    network.train(was_training)
    error = torch.cat(errors)
    total = max(float(counts[0]), 1.0)
    return ValidationResult(
        repeatability_3px=float(counts[1]) / total,
        repeatability_1px5=float(counts[2]) / total,
        orientation_accuracy=float((error < ORIENTATION_TOLERANCE_DEG).float().mean())
        if len(error)
        else 0.0,
        orientation_median_deg=float(error.median()) if len(error) else 180.0,
    )


@torch.no_grad()
def find_repeated(network: Rekd, pair: PairBatch) -> RepeatedPoints:
    """Detect points in both crops of one pair, and look for those of a in b."""
    was_training = network.training
    network.eval()
    xy_a, angle_a = _detect(network, pair.image_a)
    xy_b, angle_b = _detect(network, pair.image_b)
    network.train(was_training)
    warped = warp_points(pair.b_from_a[0], xy_a)
    side = pair.image_b.shape[-1]
    visible = ((warped >= BORDER_PX) & (warped <= side - 1 - BORDER_PX)).all(dim=1)
    xy_a, warped, expected = xy_a[visible], warped[visible], angle_a[visible] + pair.angle[0]
    if len(xy_b) == 0:
        none = torch.zeros(len(xy_a), dtype=torch.int64)
        infinite = torch.full((len(xy_a),), torch.inf)
        return RepeatedPoints(xy_a, xy_b, none, infinite, infinite)
    distance, nearest = torch.cdist(warped, xy_b).min(dim=1)
    error = angle_difference(angle_b[nearest], expected).abs().rad2deg()
    return RepeatedPoints(xy_a, xy_b, nearest, distance, error)


def _detect(
    network: Rekd, image: Float[Tensor, "1 1 side side"]
) -> tuple[Float[Tensor, "keypoint 2"], Float[Tensor, " keypoint"]]:
    score, levels = network.level_maps(image.to(next(network.parameters()).device))
    score, levels = score.cpu(), [level.cpu() for level in levels]
    peaks = find_local_maxima(score[0, 0], window_px=NMS_WINDOW_PX, border_px=BORDER_PX)
    xy, _ = refine_positions(score[0, 0], peaks[:NUM_POINTS])
    size = image.shape[-1], image.shape[-2]
    logits = read_logits(levels, xy, size, align_corners=not network.shared_pyramid)
    return xy, angle_from_bin(find_peak(logits), logits.shape[1])


def draw_validation(network: Rekd, pair: PairBatch) -> dict[str, Picture]:
    """Draw the score map, the orientation map and the repeated points of one pair."""
    score, logits = _run(network, pair.image_a)
    return {
        "score": draw_score(score[0, 0]),
        "orientation": draw_orientation(logits[0]),
        "repeated_points": draw_repeated(pair, find_repeated(network, pair)),
    }


def draw_score(score: Float[Tensor, "height width"]) -> Picture:
    """Draw a score map in grey, its highest value white."""
    grey = (score / score.max().clamp(min=1e-6) * 255).round().to(torch.uint8).numpy()
    return np.repeat(grey[..., None], 3, axis=2)


def draw_orientation(logits: Float[Tensor, "bin height width"]) -> Picture:
    """Draw the likeliest angle of each pixel as a hue, red for 0; pale where it is uncertain."""
    num_bins = len(logits)
    peak, best = logits.softmax(dim=0).max(dim=0)
    hue = angle_from_bin(best.float(), num_bins) / TWO_PI
    wheel = torch.tensor([colorsys.hsv_to_rgb(k / NUM_HUES, 1.0, 1.0) for k in range(NUM_HUES)])
    color = wheel[(hue * NUM_HUES).long() % NUM_HUES]
    certainty = ((peak - 1 / num_bins) / (1 - 1 / num_bins)).clamp(0, 1).sqrt()[..., None]
    picture = (color * certainty + (1 - certainty)) * 255
    return np.asarray(picture.round().to(torch.uint8).numpy())


def draw_repeated(pair: PairBatch, points: RepeatedPoints) -> Picture:
    """Draw repeated points, joined: green where the angle is right too, red where it is not."""
    close = torch.nonzero(points.distance_px <= DRAWN_PX)[:, 0]
    index = torch.stack([close, points.nearest[close]], dim=1)
    right = (points.angle_error_deg[close] < ORIENTATION_TOLERANCE_DEG).numpy()
    return draw_matches(
        _rgb(pair.image_a),
        _rgb(pair.image_b),
        _plain_keypoints(points.xy_a),
        _plain_keypoints(points.xy_b),
        Matches(index=index, score=torch.ones(len(index))),
        right,
    )


@torch.no_grad()
def _run(network: Rekd, image: Tensor) -> tuple[Tensor, Tensor]:
    was_training = network.training
    network.eval()
    score, logits = network(image.to(next(network.parameters()).device))
    network.train(was_training)
    return score.cpu(), logits.cpu()


def _rgb(image: Float[Tensor, "1 1 height width"]) -> Picture:
    grey = (image[0, 0] * 255).round().to(torch.uint8).numpy()
    return np.repeat(grey[..., None], 3, axis=2)


def _plain_keypoints(xy: Float[Tensor, "keypoint 2"]) -> Keypoints:
    ones = torch.ones(len(xy))
    return Keypoints(xy=xy, scale=ones, angle=0 * ones, score=ones)
