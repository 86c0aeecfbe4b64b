"""What a detector in training sees, in pictures."""

import colorsys

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rekd_hloc.features.detector.network import Rekd
from rekd_hloc.features.detector.orientation import angle_from_bin
from rekd_hloc.geometry import TWO_PI
from rekd_hloc.types import Keypoints, Matches
from rekd_hloc.viz.draw import draw_matches
from training.common.tensorboard_logger import Picture
from training.pairs import PairBatch
from training.validation import (
    ORIENTATION_TOLERANCE_DEG,
    FoundAgain,
    find_again,
)

FOUND_PX = 3.0
"""A line is drawn between points that agree to this distance."""
HUES = 256


def draw_validation(network: Rekd, pair: PairBatch) -> dict[str, Picture]:
    """Score map, orientation map and points found again of one pair."""
    score, logits = _run(network, pair.image_a)
    return {
        "score": draw_score(score[0, 0]),
        "orientation": draw_orientation(logits[0]),
        "found_again": draw_found(pair, find_again(network, pair)),
    }


def draw_score(score: Float[Tensor, "height width"]) -> Picture:
    """A score map in grey, its highest value white."""
    grey = (score / score.max().clamp(min=1e-6) * 255).round().to(torch.uint8).numpy()
    return np.repeat(grey[..., None], 3, axis=2)


def draw_orientation(logits: Float[Tensor, "bin height width"]) -> Picture:
    """The likeliest angle of each pixel as a hue, red for 0 and on clockwise; pale where unsure."""
    num_bins = len(logits)
    peak, best = logits.softmax(dim=0).max(dim=0)
    hue = angle_from_bin(best.float(), num_bins) / TWO_PI
    wheel = torch.tensor([colorsys.hsv_to_rgb(k / HUES, 1.0, 1.0) for k in range(HUES)])
    color = wheel[(hue * HUES).long() % HUES]
    sure = ((peak - 1 / num_bins) / (1 - 1 / num_bins)).clamp(0, 1).sqrt()[..., None]
    picture = (color * sure + (1 - sure)) * 255
    return np.asarray(picture.round().to(torch.uint8).numpy())


def draw_found(pair: PairBatch, found: FoundAgain) -> Picture:
    """Points found again, joined: green where the angle is right too, red where it is not."""
    close = torch.nonzero(found.distance_px <= FOUND_PX)[:, 0]
    index = torch.stack([close, found.nearest[close]], dim=1)
    right = (found.angle_error_deg[close] < ORIENTATION_TOLERANCE_DEG).numpy()
    return draw_matches(
        _rgb(pair.image_a),
        _rgb(pair.image_b),
        _plain_keypoints(found.xy_a),
        _plain_keypoints(found.xy_b),
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
