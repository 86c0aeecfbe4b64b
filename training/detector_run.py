"""One training run of the detector: options, optimiser steps, checkpoints."""

import json
import logging
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rekd_hloc.config import NetworkConfig
from rekd_hloc.detector.network import Rekd, build_network
from rekd_hloc.detector.steerable import SteerableBackbone
from training.checkpoint import load_checkpoint, require_same, save_checkpoint
from training.losses import Importance, keypoint_loss, orientation_loss, similarity_loss
from training.pairs import PairBatch, PairConfig
from training.validation import ValidationResult

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainDetectorConfig:
    """A training run; the defaults are the paper's recipe."""

    photos: tuple[str, ...] = ()
    """Folders with natural images; one photo in ten is held out for validation."""
    pair_cache: str = ""
    """Folder made by training.pair_cache (the paper's way); empty draws new pairs at every step."""
    output: str = "runs/detector"
    """Folder for checkpoints, log and resolved configuration."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    pairs: PairConfig = field(default_factory=PairConfig)
    steps: int = 11240
    """Optimiser steps (paper: 20 epochs of 562)."""
    batch_size: int = 16
    """Pairs in a step (paper: 16)."""
    learning_rate: float = 1e-3
    """Adam's (paper: 1e-3)."""
    schedule: str = "halve"
    """``halve`` once after half of the steps (paper), or ``cosine`` to zero."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly (paper: 0)."""
    weight_decay: float = 0.1
    """L2 penalty inside Adam (paper: 0.1)."""
    decay_orientation: bool = True
    """Penalise the orientation head as well (paper); it keeps the histogram flat."""
    orientation_weight: float = 100.0
    """Factor on the orientation loss (paper: 100)."""
    orientation_focus: float = 0.0
    """Share of the orientation loss that is weighted by the score, 0..1 (paper: 0, all pixels)."""
    window_importance: Importance = "score"
    """Weight of index-proposal windows by ``score`` (paper) or by its ``rank`` in the image."""
    similarity_weight: float = 0.0
    """Factor on the cosine loss between the two score maps (paper: none)."""
    shift_grid: bool = False
    """Move the grid of index-proposal windows at random (paper: fixed)."""
    seed: int = 0
    validate_every: int = 500
    """Steps between two validations, each also a checkpoint."""
    num_validation_pairs: int = 100
    validation_crop_px: int = 192
    """Side of the validation crops."""
    init: str = ""
    """Checkpoint whose weights to start from; empty starts anew."""

    def __post_init__(self) -> None:
        if self.schedule not in ("halve", "cosine"):
            raise ValueError(f"schedule must be halve or cosine, got {self.schedule!r}")
        if self.window_importance not in ("score", "rank"):
            raise ValueError(
                f"window_importance must be score or rank, got {self.window_importance!r}"
            )
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(
                f"steps and batch_size must be positive, got {self.steps}, {self.batch_size}"
            )


class DetectorRun:
    """Network, optimiser and step counter, tied to the files of one output folder."""

    def __init__(self, config: TrainDetectorConfig, data_hash: str) -> None:
        self.config = config
        self.folder = Path(config.output)
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)  # only e2cnn's and torch's initialisers read it
        np.random.seed(config.seed)  # noqa: NPY002  (e2cnn draws from numpy's global state)
        self.network = build_trainable(config.network)
        self.optimiser = _build_optimiser(self.network, config)
        self.step = 0
        self.best = -1.0
        self.seconds = 0.0
        self.last_result = ValidationResult(0.0, 0.0, 0.0, 180.0)
        # the number of steps may grow in a later run only where the schedule does not depend on it
        self.identity = json.loads(json.dumps({**asdict(config), "data_hash": data_hash}))
        for name in ("output", "init", "photos", "pair_cache"):
            self.identity.pop(name)
        self._resume_or_start()
        self.clock = time.perf_counter()

    def _resume_or_start(self) -> None:
        path = self.folder / "last.pt"
        if path.exists():
            state = load_checkpoint(path)
            require_same(path, state["identity"], self.identity)
            load_network_state(self.network, state)
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.best = state["step"], state["best"]
            self.seconds = state["seconds"]
            self.last_result = ValidationResult(**state["result"])
            logger.info("resuming %s at step %d", path, self.step)
        elif self.config.init:
            load_network_state(self.network, load_checkpoint(Path(self.config.init)))

    def advance(self, batch: PairBatch) -> dict[str, float]:
        """One optimiser step; returns the losses."""
        config = self.config
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(config, self.step)
        self.network.train()
        both = torch.cat([batch.image_a, batch.image_b])
        score, logits = self.network(both)
        (score_a, score_b), (logits_a, logits_b) = score.chunk(2), logits.chunk(2)
        shift = _grid_shift(config, self.step)
        keypoint = keypoint_loss(
            score_a,
            score_b,
            batch.b_from_a,
            grid_shift=shift,
            importance=config.window_importance,
        )
        similarity = similarity_loss(score_a, score_b, batch.b_from_a, grid_shift=shift)
        orientation = orientation_loss(
            logits_a, logits_b, batch.b_from_a, batch.angle, _focus(score_a, config)
        )
        loss = (
            keypoint
            + config.orientation_weight * orientation
            + config.similarity_weight * similarity
        )
        losses = {
            "keypoint": keypoint.item(),
            "orientation": orientation.item(),
            "similarity": similarity.item(),
        }
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"loss is not finite at step {self.step}: {losses}")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.step += 1
        return losses

    def record(self, losses: dict[str, float], result: ValidationResult) -> None:
        """Append to the log and write the checkpoints."""
        now = time.perf_counter()
        self.seconds, self.clock = self.seconds + now - self.clock, now
        self.last_result = result
        line = {"step": self.step, "seconds": round(self.seconds, 1), **losses, **asdict(result)}
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        is_best = result.quality > self.best
        self.best = max(self.best, result.quality)
        state = {
            **network_state(self.network),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "result": asdict(result),
            "identity": self.identity,
            "network": asdict(self.config.network),
        }
        save_checkpoint(self.folder / "last.pt", state)
        if is_best:
            save_checkpoint(self.folder / "best.pt", state)


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


def _grid_shift(config: TrainDetectorConfig, step: int) -> tuple[int, int]:
    if not config.shift_grid:
        return 0, 0
    x, y = np.random.default_rng([config.seed, step, 1]).integers(0, 8, size=2)
    return int(x), int(y)


def _focus(score: torch.Tensor, config: TrainDetectorConfig) -> torch.Tensor | None:
    if config.orientation_focus == 0:
        return None
    score = score.detach()
    relative = score / score.mean(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    return (1 - config.orientation_focus) + config.orientation_focus * relative
