"""The sum of losses that a detector's training step lowers, as the options weigh them."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from training.common.amp import compile_loss
from training.detector_config import TrainDetectorConfig
from training.losses import keypoint_loss, orientation_loss, peakiness_loss, similarity_loss
from training.pairs import PairBatch


class Objective:
    """Losses of a batch by name, and their weighted sum."""

    def __init__(self, config: TrainDetectorConfig, device: torch.device) -> None:
        self.config = config
        self.weights = {
            "keypoint": 1.0,
            "orientation": config.orientation_weight,
            "similarity": config.similarity_weight,
            "peakiness": config.peakiness_weight,
        }
        self._orientation_loss = orientation_loss
        if config.compile:
            self._orientation_loss = compile_loss(orientation_loss, device)

    def losses(
        self,
        batch: PairBatch,
        score: Float[Tensor, "two_batch 1 side side"],
        logits: Float[Tensor, "two_batch bin side side"],
        step: int,
    ) -> dict[str, Float[Tensor, ""]]:
        """Each loss; the peakiness only where it has a weight.

        Args:
            batch: pairs.
            score: maps of all crops a, then of all crops b.
            logits: in the same order.
            step: names the shift of the windows' grid.
        """
        config = self.config
        (score_a, score_b), (logits_a, logits_b) = score.chunk(2), logits.chunk(2)
        shift = _grid_shift(config, step)
        keypoint = keypoint_loss(
            score_a,
            score_b,
            batch.b_from_a,
            grid_shift=shift,
            importance=config.window_importance,
        )
        orientation = self._orientation_loss(
            logits_a,
            logits_b,
            batch.b_from_a,
            batch.angle,
            _focus(score_a, config),
            whole_bins=config.whole_bins,
        )
        similarity = similarity_loss(score_a, score_b, batch.b_from_a, grid_shift=shift)
        losses = {"keypoint": keypoint, "orientation": orientation, "similarity": similarity}
        if config.peakiness_weight > 0:
            losses["peakiness"] = peakiness_loss(score, torch.cat([batch.image_a, batch.image_b]))
        return losses

    def total(self, losses: dict[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """Their weighted sum."""
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()


def _grid_shift(config: TrainDetectorConfig, step: int) -> tuple[int, int]:
    if not config.shift_grid:
        return 0, 0
    x, y = np.random.default_rng([config.seed, step, 1]).integers(0, 8, size=2)
    return int(x), int(y)


def _focus(score: Tensor, config: TrainDetectorConfig) -> Tensor | None:
    if config.orientation_focus == 0:
        return None
    score = score.detach()
    relative = score / score.mean(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    return (1 - config.orientation_focus) + config.orientation_focus * relative
