"""Curves and pictures of a detector's training for TensorBoard."""

import colorsys
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from rekd_hloc.detector.network import Rekd
from rekd_hloc.detector.orientation import angle_from_bin
from rekd_hloc.geometry import TWO_PI
from rekd_hloc.plot import draw_matches
from rekd_hloc.types import Keypoints, Matches
from training.pairs import PairBatch
from training.validation import (
    ORIENTATION_TOLERANCE_DEG,
    FoundAgain,
    ValidationResult,
    find_again,
)

logger = logging.getLogger(__name__)

Picture = UInt8[np.ndarray, "height width 3"]

FOUND_PX = 3.0
"""A line is drawn between points that agree to this distance."""
HUES = 256


class Board:
    """Event files of one run; without tensorboard, or if not ``wanted``, nothing is written.

    Args:
        folder: for the event files.
        first_step: the next step to come; what another run wrote for it and later is dropped.
        wanted: whether to write at all.
    """

    def __init__(self, folder: Path, first_step: int, *, wanted: bool = True) -> None:
        self._writer: Any = _open_writer(folder, first_step) if wanted else None

    def __enter__(self) -> Self:
        """Nothing to do: the files are open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what is left and close."""
        if self._writer is not None:
            self._writer.close()

    def add_step(self, step: int, losses: Mapping[str, float], learning_rate: float) -> None:
        """Losses and learning rate of one step."""
        if self._writer is None:
            return
        for name, value in losses.items():
            self._writer.add_scalar(f"loss/{name}", value, step)
        self._writer.add_scalar("learning_rate", learning_rate, step)

    def add_validation(
        self, step: int, result: ValidationResult, network: Rekd, pair: PairBatch
    ) -> None:
        """Figures, and pictures of one held-out pair."""
        if self._writer is None:
            return
        for name, value in asdict(result).items():
            self._writer.add_scalar(f"validation/{name}", value, step)
        score, logits = _run(network, pair.image_a)
        pictures = {
            "score": draw_score(score[0, 0]),
            "orientation": draw_orientation(logits[0]),
            "found_again": draw_found(pair, find_again(network, pair)),
        }
        for name, picture in pictures.items():
            self._writer.add_image(f"validation/{name}", picture, step, dataformats="HWC")
        self._writer.flush()


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


def _open_writer(folder: Path, first_step: int) -> Any:  # noqa: ANN401  (untyped)
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.warning(
            "tensorboard is not installed, no curves are written: pip install it, or "
            "set tensorboard=false"
        )
        return None
    return SummaryWriter(str(folder), purge_step=first_step)
