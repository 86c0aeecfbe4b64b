"""One training run of the descriptor: options, optimiser steps, checkpoints, export."""

import json
import logging
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import kornia.feature
import numpy as np
import torch
from torch import nn

from rekd_hloc.config import config_json
from rekd_hloc.features.descriptor.hardnet import read_hardnet, save_descriptor
from rekd_hloc.features.extractor import choose_device
from training.common.checkpoint import load_checkpoint, require_same
from training.common.run_folder import LAST, RunFolder
from training.descriptor_loss import hardest_in_batch_loss
from training.descriptor_validation import (
    MatchingQuality,
    ValidationPair,
    by_network,
    evaluate,
)
from training.scene_tracks import SceneConfig
from training.track_cache import BatchPlan, PatchPairs
from training.tracks import TrackConfig

logger = logging.getLogger(__name__)

NO_INFLUENCE = ("output", "cache", "photos", "detector", "peers", "init", "device", "tensorboard")
"""Options that may change when a run goes on; photos and detector are compared by their hashes."""

Qualities = dict[str, MatchingQuality]
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TrainDescriptorConfig:
    """A training run."""

    photos: tuple[str, ...] = ()
    """Folders with natural images; one photo in ten is held out for validation."""
    detector: str = "rekd-fast"
    """Name of shipped detector weights, or a file."""
    output: str = "runs/descriptor"
    """Folder for checkpoints, log, and weights."""
    cache: str = ""
    """Folder for the tracks; empty means ``output``/tracks."""
    tracks: TrackConfig = field(default_factory=TrackConfig)
    scenes: SceneConfig = field(default_factory=SceneConfig)
    """Reconstructions that give tracks too."""
    batch: BatchPlan = field(default_factory=BatchPlan)
    steps: int = 1000
    optimiser: str = "adam"
    """``adam``, or ``sgd`` with momentum 0.9 (the paper's)."""
    learning_rate: float = 3e-3
    """At its highest; it falls linearly to zero."""
    warmup_steps: int = 50
    """Steps over which the learning rate rises linearly."""
    weight_decay: float = 1e-4
    margin: float = 1.0
    """Of the triplet loss (paper: 1)."""
    dropout: float = 0.3
    """Before the last layer (paper's code: 0.3)."""
    seed: int = 0
    validate_every: int = 200
    """Steps between two validations, each also a checkpoint."""
    max_photos: int = 0
    """Training photos that give tracks, spread over all of them; 0 for every one."""
    validation_photos: int = 20
    """Held-out photos used, two pairs of each."""
    validation_keypoints: int = 300
    """Strongest keypoints described in each validation image."""
    peers: tuple[str, ...] = ()
    """Other descriptor weights to measure once on the same validation keypoints."""
    init: str = ""
    """Weights to start from: a checkpoint of this program (``.pt``), or HardNet weights by name or
    file (``default`` are those that ship); empty starts anew."""
    device: str = "auto"
    """``cuda``, ``cpu``, or ``auto`` for a GPU where there is one."""
    tensorboard: bool = True
    """Write curves for TensorBoard, if it is installed."""

    def __post_init__(self) -> None:
        if self.optimiser not in ("adam", "sgd"):
            raise ValueError(f"optimiser must be adam or sgd, got {self.optimiser!r}")
        if self.steps < 1 or self.validate_every < 1:
            raise ValueError(
                f"steps and validate_every must be positive, got {self.steps}, "
                f"{self.validate_every}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


class DescriptorRun:
    """Network, optimiser and step counter, tied to the files of one output folder.

    Args:
        config: the run's options.
        data: hashes of what it is trained on.
        start: the weights to begin with, see :func:`read_start`.
    """

    def __init__(
        self, config: TrainDescriptorConfig, data: dict[str, Any], start: Tensors | None = None
    ) -> None:
        self.config = config
        self.folder = RunFolder(Path(config.output), config_json(config))
        self.device = choose_device(config.device)
        self.forked = [self.device] if self.device.type == "cuda" else []
        self.network = build_hardnet(config.seed, config.dropout).to(self.device)
        self.optimiser = _build_optimiser(self.network, config)
        self.step = 0
        self.validated_step = 0
        self.quality: Qualities = {}
        self.peers: dict[str, Qualities] = {}
        self.identity = json.loads(json.dumps({**asdict(config), **data}))
        self.identity["scenes"] = config.scenes.limits
        for name in NO_INFLUENCE:
            self.identity.pop(name)
        self._resume_or_start(start)
        self.folder.begin(self.validated_step)

    def _resume_or_start(self, start: Tensors | None) -> None:
        state = self.folder.resume()
        if state is None:
            if start is not None:
                self.network.load_state_dict(start)
            return
        require_same(self.folder.last, state["identity"], self.identity)
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self.validated_step = state.get("validated_step", self.step)
        self.quality = {k: MatchingQuality(**v) for k, v in state["quality"].items()}
        logger.info("resuming %s at step %d", self.folder.last, self.step)

    @property
    def learning_rate(self) -> float:
        """That of the next step."""
        return learning_rate(self.config, self.step)

    def note_peer(self, name: str, qualities: Qualities) -> None:
        """Keep and log what another descriptor reaches on the validation pairs."""
        self.peers[name] = qualities
        logger.info("%s: %s", name, summarise(qualities))

    def advance(self, pairs: PatchPairs) -> dict[str, float]:
        """One optimiser step; returns the loss and the mean distances."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate
        self.network.train()
        with torch.random.fork_rng(self.forked):  # dropout reads torch's own generator
            torch.manual_seed(self.config.seed * 1_000_003 + self.step)
            # apart, as in the paper's code: each column has its own batch statistics
            a, b = (self.network(patches.to(self.device)) for patches in (pairs.a, pairs.b))
        excluded = pairs.is_excluded.to(self.device)
        loss, positive, negative = hardest_in_batch_loss(a, b, excluded, margin=self.config.margin)
        values = {"loss": loss.item(), "positive": positive.item(), "negative": negative.item()}
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(f"loss is not finite at step {self.step}: {values}")
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimiser.step()
        self.step += 1
        return values

    def record(self, values: dict[str, float], held_out: dict[str, list[ValidationPair]]) -> None:
        """Validate, append to the log and write the checkpoints."""
        self.network.eval()
        self.quality = {k: evaluate(p, by_network(self.network)) for k, p in held_out.items()}
        self.validated_step = self.step
        figures = {kind: asdict(quality) for kind, quality in self.quality.items()}
        score = float(np.mean([q.average_precision for q in self.quality.values()]))
        self.folder.record(self.step, {**values, **figures}, score, self._state())

    def save(self) -> None:
        """Write the checkpoint that a later run goes on from."""
        self.folder.save(self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "validated_step": self.validated_step,
            "quality": {kind: asdict(quality) for kind, quality in self.quality.items()},
            "identity": self.identity,
        }

    def export(self, held_out: dict[str, list[ValidationPair]]) -> Path:
        """Write the best checkpoint as it ships, measured once more."""
        best = self.folder.path / "best.pt"
        self.network.load_state_dict(load_checkpoint(best)["network"])
        self.network.eval()
        quality = {k: asdict(evaluate(p, by_network(self.network))) for k, p in held_out.items()}
        out = self.folder.path / "hardnet.safetensors"
        peers = {
            name: {kind: asdict(quality) for kind, quality in qualities.items()}
            for name, qualities in self.peers.items()
        }
        export_descriptor(best, out, {"quality": quality, "peers": peers})
        return out


def build_hardnet(seed: int, dropout: float = 0.3) -> nn.Module:
    """HardNet with orthogonal filters (the paper's start), drawn from the seed alone."""
    network: nn.Module = kornia.feature.HardNet(pretrained=False)
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.orthogonal_(layer.weight, gain=0.6, generator=generator)
        elif isinstance(layer, nn.Dropout):
            layer.p = dropout
        elif isinstance(layer, nn.ReLU):
            layer.inplace = True
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def read_start(config: TrainDescriptorConfig) -> Tensors | None:
    """The weights a run begins with; None if it goes on from its checkpoint, or starts anew.

    Raises:
        FileNotFoundError: ``init`` names neither weights nor a file.
        ValueError: the file holds no HardNet.
    """
    if not config.init or (Path(config.output) / LAST).exists():
        return None
    if Path(config.init).suffix != ".pt":
        return read_hardnet(config.init)
    tensors: Tensors = load_checkpoint(Path(config.init)).get("network", {})
    if tensors.keys() != build_hardnet(0).state_dict().keys():
        raise ValueError(f"{config.init} is no checkpoint of training.train_descriptor")
    return tensors


def learning_rate(config: TrainDescriptorConfig, step: int) -> float:
    """The learning rate of a step: warm-up, then linear to zero."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    return config.learning_rate * warm * (1 - step / config.steps)


def export_descriptor(checkpoint: Path, out: Path, figures: dict[str, Any]) -> None:
    """Write the weights of a checkpoint of this program, with where they come from.

    Raises:
        FileNotFoundError, ValueError: as :func:`training.common.checkpoint.load_checkpoint`.
    """
    state = load_checkpoint(checkpoint)
    network = kornia.feature.HardNet(pretrained=False)
    network.load_state_dict(state["network"])
    names = ("step", "seconds", "quality", "identity")
    save_descriptor(out, network, {**{name: state[name] for name in names}, **figures})


def summarise(qualities: Qualities) -> str:
    """One line of figures."""
    return "; ".join(
        f"{kind} precision {q.precision:.3f} recall {q.recall:.3f} AP {q.average_precision:.3f} "
        f"FPR95 {q.fpr95:.4f}"
        for kind, q in qualities.items()
    )


def _build_optimiser(network: nn.Module, config: TrainDescriptorConfig) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimiser == "adam":
        return torch.optim.Adam(network.parameters(), lr=rate, weight_decay=decay)
    return torch.optim.SGD(
        network.parameters(), lr=rate, momentum=0.9, dampening=0.9, weight_decay=decay
    )
