"""One training run of the detector: losses, optimiser steps, checkpoints and resuming."""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rekd_hloc.config import NetworkConfig, config_json
from rekd_hloc.features.detector.network import Rekd, build_network
from rekd_hloc.features.detector.steerable import SteerableBackbone
from training.common.amp import compile_loss, keep_filters_float32
from training.common.checkpoint import RunFolder, load_start, make_identity
from training.common.distributed import Process, average_over_processes
from training.common.loop import build_optimiser, scheduled_rate, set_learning_rate, take_step
from training.common.sync_batchnorm import synchronise_batchnorm
from training.detector_config import NO_INFLUENCE, TrainDetectorConfig
from training.detector_validation import ValidationResult
from training.losses import keypoint_loss, orientation_loss, peakiness_loss, similarity_loss
from training.pairs import PairBatch

logger = logging.getLogger(__name__)

ALONE = Process(0, 1, torch.device("cpu"))


class DetectorRun:
    """Network, optimiser and step counter, tied to the files of one output folder.

    Only the main process writes. Every process must be given the same configuration.

    Args:
        config: the run's options.
        data_hash: of the images that it trains and validates on.
        process: rank and device of this process.
    """

    def __init__(
        self, config: TrainDetectorConfig, data_hash: str, process: Process = ALONE
    ) -> None:
        self.config = config
        self.process = process
        self.folder = RunFolder(Path(config.output), config_json(config))
        torch.manual_seed(config.seed)  # only e2cnn's and torch's initialisers read it
        np.random.seed(config.seed)  # noqa: NPY002  (e2cnn draws from numpy's global state)
        self.network = build_trainable(config.network)
        keep_filters_float32(self.network)
        if process.count > 1 or process.device.type == "cuda":
            synchronise_batchnorm(self.network)
        self.network.to(process.device)
        groups = _parameter_groups(self.network, config)
        self.optimiser = build_optimiser("adam", groups, config.learning_rate)
        self.step = 0
        self.validated_step = 0
        self.last_losses: dict[str, float] = {}
        self.last_result = ValidationResult(0.0, 0.0, 0.0, 180.0)
        self.identity = make_identity(asdict(config), NO_INFLUENCE, data_hash=data_hash)
        self._resume_or_start()
        self.forward = self._share()
        self.objective = Objective(config, process.device)

    def _share(self) -> Any:  # noqa: ANN401  (a module, and callable)
        """The network as it is called in training: its gradients are those of the joint batch."""
        if self.process.count == 1:
            return self.network
        ids = [self.process.device] if self.process.device.type == "cuda" else None
        with warnings.catch_warnings():
            # torch 2.13 has another name for broadcast_buffers, which older versions do not know
            warnings.simplefilter("ignore", FutureWarning)
            # e2cnn's buffers are large and constant, and batch statistics are joint already
            return DistributedDataParallel(self.network, device_ids=ids, broadcast_buffers=False)

    def _resume_or_start(self) -> None:
        defaults = make_identity(asdict(TrainDetectorConfig()), NO_INFLUENCE)
        state = self.folder.resume(self.identity, defaults, NO_INFLUENCE)
        if state is not None:
            load_network_state(self.network, state)
            self.optimiser.load_state_dict(state["optimiser"])
            self.step = state["step"]
            self.validated_step = state.get("validated_step", self.step)
            self.last_losses = state.get("losses", {})
            self.last_result = ValidationResult(**state["result"])
            logger.info("resuming %s at step %d", self.folder.last, self.step)
        elif self.config.init:
            load_network_state(self.network, load_start(self.config.init))
        if self.process.is_main:
            self.folder.begin(self.validated_step)

    @property
    def learning_rate(self) -> float:
        """Return the learning rate of the next step."""
        return learning_rate(self.config, self.step)

    def advance(self, batch: PairBatch) -> dict[str, float]:
        """Take one optimiser step on this process's share of the batch.

        Returns:
            The losses of the joint batch, by name.

        Raises:
            FloatingPointError: a loss is not finite; the message names the step and the losses.
        """
        config, device = self.config, self.process.device
        set_learning_rate(self.optimiser, self.learning_rate)
        batch = _move(batch, device)
        self.network.train()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.autocast):
            score, logits = self.forward(torch.cat([batch.image_a, batch.image_b]))
        parts = self.objective.losses(batch, score, logits, self.step)
        loss = self.objective.total(parts)
        *values, total = average_over_processes(torch.stack([*parts.values(), loss])).tolist()
        self.last_losses = dict(zip(parts, values, strict=True))
        take_step(self.optimiser, loss, {**self.last_losses, "total": total}, self.step)
        self.step += 1
        return self.last_losses

    def record(self, result: ValidationResult) -> None:
        """Append a validation of this step to the log and write the checkpoints."""
        self.last_result, self.validated_step = result, self.step
        metrics = {**self.last_losses, **asdict(result)}
        self.folder.record(self.step, metrics, result.quality, self._state())

    def save(self) -> None:
        """Write ``last.pt``: all that going on from this step needs."""
        self.folder.save(self._state())

    def _state(self) -> dict[str, Any]:
        return {
            **network_state(self.network),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "validated_step": self.validated_step,
            "losses": self.last_losses,
            "result": asdict(self.last_result),
            "identity": self.identity,
            "network": asdict(self.config.network),
        }


class Objective:
    """The losses of a batch by name, and the weighted sum that a step lowers."""

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
        """Compute each loss; the peakiness only where it has a weight.

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
        """Return the weighted sum of the losses."""
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


def build_trainable(config: NetworkConfig) -> Rekd:
    """Build a network with a steerable backbone, randomly initialised."""
    backbone = SteerableBackbone(group_order=config.group_order, fields=config.fields)
    return build_network(config, backbone)


def network_state(network: Rekd) -> dict[str, Any]:
    """Return the learned parameters and statistics, without derived buffers."""
    backbone = network.backbone
    assert isinstance(backbone, SteerableBackbone)
    head = {
        name: tensor.detach().clone()
        for name, tensor in network.state_dict().items()
        if name.startswith(("score_norm.", "score_head."))
    }
    return {"backbone": backbone.learned_state(), "head": head}


def load_network_state(network: Rekd, state: dict[str, Any]) -> None:
    """Load the parameters that :func:`network_state` returned."""
    backbone = network.backbone
    assert isinstance(backbone, SteerableBackbone)
    backbone.load_learned_state(state["backbone"])
    network.load_state_dict(state["head"], strict=False)


def learning_rate(config: TrainDetectorConfig, step: int) -> float:
    """Return the learning rate of a step: warm-up, then the schedule."""
    return scheduled_rate(
        step,
        highest=config.learning_rate,
        num_steps=config.steps,
        warmup_steps=config.warmup_steps,
        schedule=config.schedule,
    )


def _parameter_groups(network: Rekd, config: TrainDetectorConfig) -> list[Mapping[str, Any]]:
    """Return the orientation head apart, for it may be spared the weight decay."""
    orientation: list[nn.Parameter] = list(network.backbone.orientation.parameters())  # type: ignore[union-attr]
    chosen = {id(p) for p in orientation}
    rest = [p for p in network.parameters() if id(p) not in chosen]
    decay = config.weight_decay if config.decay_orientation else 0.0
    return [
        {"params": rest, "weight_decay": config.weight_decay},
        {"params": orientation, "weight_decay": decay},
    ]


def _move(batch: PairBatch, device: torch.device) -> PairBatch:
    moved = {item.name: getattr(batch, item.name).to(device) for item in fields(batch)}
    return PairBatch(**moved)
