"""One training run of the descriptor: options, optimiser steps, checkpoints, export."""

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import kornia.feature
import numpy as np
import torch
from torch import nn

from rekd_hloc.config import config_json
from rekd_hloc.devices import choose_device
from rekd_hloc.features.descriptor.hardnet import read_hardnet, save_descriptor
from training.common.checkpoint import BEST, LAST, RunFolder, load_checkpoint, make_identity
from training.common.distributed import Process
from training.common.loop import build_optimiser, scheduled_rate, set_learning_rate, take_step
from training.descriptor_validation import MatchingQuality, Qualities, ValidationSet
from training.losses import hardest_in_batch_loss
from training.scene_tracks import SceneConfig
from training.track_batches import BatchPlan, PatchPairs
from training.tracks import TrackConfig

logger = logging.getLogger(__name__)

NO_INFLUENCE = (
    "output",
    "cache",
    "images",
    "detector",
    "peers",
    "init",
    "device",
    "tensorboard",
    "checkpoint_every",
)
"""Options that a resumed run may change; images and detector are compared by their hashes."""

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TrainDescriptorConfig:
    """A training run."""

    images: tuple[str, ...] = ()
    """Folders with natural images; one image in ten is held out for validation."""
    detector: str = "rekd-fast"
    """Name of shipped detector weights, or a file."""
    output: str = "runs/descriptor"
    """Folder for checkpoints, log, and weights."""
    cache: str = ""
    """Folder of the tracks; empty means ``output``/tracks."""
    tracks: TrackConfig = field(default_factory=TrackConfig)
    scenes: SceneConfig = field(default_factory=SceneConfig)
    """Reconstructions that give further tracks."""
    batch: BatchPlan = field(default_factory=BatchPlan)
    steps: int = 1000
    optimiser: str = "adam"
    """``adam``, or ``sgd`` with momentum 0.9 (the paper's)."""
    learning_rate: float = 3e-3
    """Highest learning rate; it falls linearly to zero."""
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
    checkpoint_every: int = 0
    """Steps between two checkpoints without validation; 0 leaves them to the validations."""
    max_images: int = 0
    """Number of training images that give tracks, spread over all of them; 0 takes every one."""
    validation_images: int = 20
    """Number of held-out images, two pairs of each."""
    validation_keypoints: int = 300
    """Number of the strongest keypoints described in each validation image."""
    peers: tuple[str, ...] = ()
    """Other descriptor weights, measured once on the same validation keypoints."""
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
        if self.checkpoint_every < 0:
            raise ValueError(f"checkpoint_every must not be negative, got {self.checkpoint_every}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


class DescriptorRun:
    """Network, optimiser and step counter, tied to the files of one output folder.

    Args:
        config: the run's options.
        hashes: of the data and the detector that it is trained on.
        start: the weights to begin with, see :func:`read_start`.
    """

    def __init__(
        self, config: TrainDescriptorConfig, hashes: dict[str, Any], start: Tensors | None = None
    ) -> None:
        self.config = config
        self.folder = RunFolder(Path(config.output), config_json(config))
        self.process = Process(0, 1, choose_device(config.device))
        device = self.process.device
        self.network = build_hardnet(config.seed, config.dropout).to(device)
        groups = [{"params": self.network.parameters(), "weight_decay": config.weight_decay}]
        self.optimiser = build_optimiser(config.optimiser, groups, config.learning_rate)
        self.step = 0
        self.validated_step = 0
        self.last_losses: dict[str, float] = {}
        self.quality: Qualities = {}
        self.peers: dict[str, Qualities] = {}
        self.identity = _identity(config, hashes)
        self._devices = [device] if device.type == "cuda" else []
        self._resume_or_start(start)
        self.folder.begin(self.validated_step)

    def _resume_or_start(self, start: Tensors | None) -> None:
        defaults = _identity(TrainDescriptorConfig(), {})
        state = self.folder.resume(self.identity, defaults, NO_INFLUENCE)
        if state is None:
            if start is not None:
                self.network.load_state_dict(start)
            return
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self.validated_step = state.get("validated_step", self.step)
        self.last_losses = state.get("losses", {})
        self.quality = {k: MatchingQuality(**v) for k, v in state["quality"].items()}
        logger.info("resuming %s at step %d", self.folder.last, self.step)

    @property
    def learning_rate(self) -> float:
        """Return the learning rate of the next step."""
        return learning_rate(self.config, self.step)

    def advance(self, batch: PatchPairs) -> dict[str, float]:
        """Take one optimiser step.

        Returns:
            The loss and the mean distances, by name.

        Raises:
            FloatingPointError: the loss is not finite; the message names the step.
        """
        device = self.process.device
        set_learning_rate(self.optimiser, self.learning_rate)
        self.network.train()
        with torch.random.fork_rng(self._devices):  # dropout reads torch's own generator
            torch.manual_seed(self.config.seed * 1_000_003 + self.step)
            # apart, as in the paper's code: each column has its own batch statistics
            a, b = (self.network(patches.to(device)) for patches in (batch.a, batch.b))
        excluded = batch.is_excluded.to(device)
        loss, positive, negative = hardest_in_batch_loss(a, b, excluded, margin=self.config.margin)
        values = {"loss": loss.item(), "positive": positive.item(), "negative": negative.item()}
        take_step(self.optimiser, loss, values, self.step)
        self.last_losses = values
        self.step += 1
        return values

    def record(self, quality: Qualities) -> None:
        """Append a validation of this step to the log and write the checkpoints."""
        self.quality, self.validated_step = quality, self.step
        score = float(np.mean([q.average_precision for q in quality.values()]))
        metrics = {**self.last_losses, **_plain(quality)}
        self.folder.record(self.step, metrics, score, self._state())

    def save(self) -> None:
        """Write the checkpoint that a later run goes on from."""
        self.folder.save(self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "validated_step": self.validated_step,
            "losses": self.last_losses,
            "quality": _plain(self.quality),
            "identity": self.identity,
        }

    def export(self, held_out: ValidationSet) -> Path:
        """Write the best checkpoint as it ships, validated once more."""
        best = self.folder.path / BEST
        self.network.load_state_dict(load_checkpoint(best)["network"])
        out = self.folder.path / "hardnet.safetensors"
        peers = {name: _plain(qualities) for name, qualities in self.peers.items()}
        quality = _plain(held_out.evaluate_network(self.network))
        export_descriptor(best, out, {"quality": quality, "peers": peers})
        return out


def build_hardnet(seed: int, dropout: float = 0.3) -> nn.Module:
    """Build HardNet with orthogonal filters (the paper's start), drawn from the seed alone."""
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
    """Read the weights that a run begins with.

    Returns:
        None if the run goes on from its checkpoint, or starts from random weights.

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
    """Return the learning rate of a step: warm-up, and linear to zero."""
    return scheduled_rate(
        step,
        highest=config.learning_rate,
        num_steps=config.steps,
        warmup_steps=config.warmup_steps,
        schedule="linear",
    )


def export_descriptor(checkpoint: Path, out: Path, metrics: dict[str, Any]) -> None:
    """Write the weights of a checkpoint of this program, with their provenance.

    Raises:
        FileNotFoundError, ValueError: as :func:`training.common.checkpoint.load_checkpoint`.
    """
    state = load_checkpoint(checkpoint)
    network = kornia.feature.HardNet(pretrained=False)
    network.load_state_dict(state["network"])
    names = ("step", "seconds", "quality", "identity")
    save_descriptor(out, network, {**{name: state[name] for name in names}, **metrics})


def _identity(config: TrainDescriptorConfig, hashes: dict[str, Any]) -> dict[str, Any]:
    options = {**asdict(config), "scenes": config.scenes.limits}
    return make_identity(options, NO_INFLUENCE, **hashes)


def _plain(qualities: Qualities) -> dict[str, Any]:
    return {kind: asdict(quality) for kind, quality in qualities.items()}
