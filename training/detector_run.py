"""One training run of the detector: optimiser steps, checkpoints, and going on from them."""

import json
import logging
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from rekd_hloc.config import NetworkConfig, config_json
from rekd_hloc.features.detector.network import Rekd, build_network
from rekd_hloc.features.detector.steerable import SteerableBackbone
from training.common.amp import keep_filters_exact
from training.common.checkpoint import load_start, require_same
from training.common.distributed import Process, average_over_processes
from training.common.run_folder import RunFolder
from training.common.sync_batchnorm import join_statistics
from training.detector_config import NO_INFLUENCE, TrainDetectorConfig
from training.detector_objective import Objective
from training.pairs import PairBatch
from training.validation import ValidationResult

logger = logging.getLogger(__name__)

ALONE = Process(0, 1, torch.device("cpu"))


class DetectorRun:
    """Network, optimiser and step counter, tied to the files of one output folder.

    Only the main process writes. Every process must be given the same configuration.
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
        keep_filters_exact(self.network)
        if process.count > 1 or process.device.type == "cuda":
            join_statistics(self.network)
        self.network.to(process.device)
        self.optimiser = _build_optimiser(self.network, config)
        self.step = 0
        self.validated_step = 0
        self.last_losses: dict[str, float] = {}
        self.last_result = ValidationResult(0.0, 0.0, 0.0, 180.0)
        self.identity = _identity(config, data_hash)
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
        state = self.folder.resume()
        if state is not None:
            defaults = _identity(TrainDetectorConfig(), "")
            saved = _drop(_completed(state["identity"], defaults), NO_INFLUENCE)
            require_same(self.folder.last, saved, self.identity)
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
        """That of the next step."""
        return learning_rate(self.config, self.step)

    def advance(self, batch: PairBatch) -> dict[str, float]:
        """One optimiser step on this process's share of the batch; the joint batch's losses.

        Raises:
            FloatingPointError: a loss is not finite; the message names the step and the losses.
        """
        config, device = self.config, self.process.device
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate
        batch = _move(batch, device)
        self.network.train()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.autocast):
            score, logits = self.forward(torch.cat([batch.image_a, batch.image_b]))
        parts = self.objective.losses(batch, score, logits, self.step)
        loss = self.objective.total(parts)
        values = average_over_processes(torch.stack([*parts.values(), loss])).tolist()
        self.last_losses = dict(zip(parts, values[:-1], strict=True))
        if not math.isfinite(values[-1]):
            raise FloatingPointError(f"loss is not finite at step {self.step}: {self.last_losses}")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.step += 1
        return self.last_losses

    @property
    def is_validation_due(self) -> bool:
        """Whether this step has a validation, and it has not been recorded."""
        due = self.step % self.config.validate_every == 0 or self.step == self.config.steps
        return due and self.step > self.validated_step

    def record(self, losses: dict[str, float], result: ValidationResult) -> None:
        """Append a validation to the log and write the checkpoints."""
        self.last_result, self.validated_step = result, self.step
        figures = {**losses, **asdict(result)}
        self.folder.record(self.step, figures, result.quality, self._state())

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


def build_trainable(config: NetworkConfig) -> Rekd:
    """A network with a steerable backbone, randomly initialised."""
    backbone = SteerableBackbone(group_order=config.group_order, fields=config.fields)
    return build_network(config, backbone)


def network_state(network: Rekd) -> dict[str, Any]:
    """What has been learned, without derived buffers."""
    backbone = network.backbone
    assert isinstance(backbone, SteerableBackbone)
    head = {
        name: tensor.detach().clone()
        for name, tensor in network.state_dict().items()
        if name.startswith(("score_norm.", "score_head."))
    }
    return {"backbone": backbone.learned_state(), "head": head}


def load_network_state(network: Rekd, state: dict[str, Any]) -> None:
    """Put back what :func:`network_state` gave."""
    backbone = network.backbone
    assert isinstance(backbone, SteerableBackbone)
    backbone.load_learned_state(state["backbone"])
    network.load_state_dict(state["head"], strict=False)


def learning_rate(config: TrainDetectorConfig, step: int) -> float:
    """The learning rate of a step: warm-up, then the schedule."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "halve":
        return config.learning_rate * (0.5 if step >= config.steps / 2 else 1.0)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def _build_optimiser(network: Rekd, config: TrainDetectorConfig) -> torch.optim.Adam:
    orientation: list[nn.Parameter] = list(network.backbone.orientation.parameters())  # type: ignore[union-attr]
    chosen = {id(p) for p in orientation}
    rest = [p for p in network.parameters() if id(p) not in chosen]
    decay = config.weight_decay if config.decay_orientation else 0.0
    groups = [
        {"params": rest, "weight_decay": config.weight_decay},
        {"params": orientation, "weight_decay": decay},
    ]
    return torch.optim.Adam(groups, lr=config.learning_rate)


def _move(batch: PairBatch, device: torch.device) -> PairBatch:
    moved = {item.name: getattr(batch, item.name).to(device) for item in fields(batch)}
    return PairBatch(**moved)


def _identity(config: TrainDetectorConfig, data_hash: str) -> dict[str, Any]:
    """What must be the same for a run to go on."""
    plain = json.loads(json.dumps({**asdict(config), "data_hash": data_hash}))
    return _drop(plain, NO_INFLUENCE)


def _drop(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _completed(saved: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Options that did not exist when a checkpoint was written had their defaults."""
    merged = {**defaults, **saved}
    for name, value in defaults.items():
        if isinstance(value, dict):
            merged[name] = _completed(saved.get(name, {}), value)
    return merged
