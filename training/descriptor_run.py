"""One training run of the descriptor: options, optimiser steps, checkpoints, export."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rekd_hloc.config import config_json
from rekd_hloc.devices import choose_device
from rekd_hloc.features.descriptor.hardnet import save_descriptor
from rekd_hloc.features.descriptor.support_hardnet import (
    FIRST_LAYER,
    ONE_SUPPORT,
)
from training.common.checkpoint import BEST, RunFolder, load_checkpoint
from training.common.distributed import Process
from training.common.loop import build_optimiser, scheduled_rate, set_learning_rate, take_step
from training.descriptor_config import (
    NO_INFLUENCE,
    TrainDescriptorConfig,
    make_descriptor_identity,
)
from training.descriptor_losses import hardest_in_batch_loss, second_order_loss, teacher_loss
from training.descriptor_memory import DescriptorMemory
from training.descriptor_start import build_hardnet, load_teacher, validated_tensors
from training.descriptor_validation import MatchingQuality, Qualities, ValidationSet
from training.track_batches import PatchPairs
from training.weight_average import WeightAverage

logger = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]

TEACHER_BATCH = 64
"""Patches that the teacher describes at once: more leave the cache of a core."""


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
        supports = config.tracks.supports
        self.network = build_hardnet(config.seed, config.dropout, supports, config.width).to(device)
        self.teacher = load_teacher(config, device)
        groups = [{"params": self.network.parameters(), "weight_decay": config.weight_decay}]
        self.optimiser = build_optimiser(config.optimiser, groups, config.learning_rate)
        self.step = 0
        self.validated_step = 0
        self.last_losses: dict[str, float] = {}
        self.quality: Qualities = {}
        self.peers: dict[str, Qualities] = {}
        self.memory = DescriptorMemory(config.memory_size)
        self.average: WeightAverage | None = None
        self.identity = make_descriptor_identity(config, hashes)
        self._devices = [device] if device.type == "cuda" else []
        self._resume_or_start(start)
        self.folder.begin(self.validated_step)

    def _resume_or_start(self, start: Tensors | None) -> None:
        defaults = make_descriptor_identity(TrainDescriptorConfig(), {})
        state = self.folder.resume(self.identity, defaults, NO_INFLUENCE)
        begin = start if state is None else state["network"]
        if begin is not None:
            self.network.load_state_dict(begin)
        if self.config.average_decay:
            self.average = WeightAverage(self.network, self.config.average_decay)
        if state is None:
            return
        if self.average is not None:
            self.average.load(state["average"])
        self.memory.load(state.get("memory", {}), self.process.device)
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

    @property
    def validated_network(self) -> nn.Module:
        """Return the network that is validated and exported: the average, where there is one."""
        return self.network if self.average is None else self.average.network

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
            with torch.autocast(device.type, torch.bfloat16, enabled=self.config.autocast):
                a, b = (self.network(patches.to(device)).float() for patches in (batch.a, batch.b))
        loss, values = self._losses(a, b, batch)
        take_step(self.optimiser, loss, values, self.step)
        self.memory.extend(a, b, batch.places.to(device))
        if self.average is not None:
            self.average.update(self.network, self.step)
        self.last_losses = values
        self.step += 1
        return values

    def _losses(
        self, a: torch.Tensor, b: torch.Tensor, batch: PatchPairs
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the loss of a batch's descriptors, and its parts as numbers."""
        config, device = self.config, self.process.device
        excluded = batch.is_excluded.to(device)
        past = None
        if self.step >= config.warmup_steps:  # before, the network changes too fast
            past = self.memory.negatives(batch.places.to(device), config.batch.exclusion)
        loss, positive, negative = hardest_in_batch_loss(
            a, b, excluded, margin=config.margin, past=past
        )
        parts = {"positive": positive, "negative": negative}
        if config.second_order_weight:
            second_order = second_order_loss(a, b, excluded)
            parts |= {"triplet": loss.detach(), "second_order": second_order.detach()}
            loss = loss + config.second_order_weight * second_order
        if self.teacher is not None:
            repeated = teacher_loss(torch.cat([a, b]), self._taught(batch))
            parts |= {"teacher": repeated.detach()}
            loss = loss + config.teacher_weight * repeated
        return loss, {"loss": loss.item(), **{name: part.item() for name, part in parts.items()}}

    @torch.no_grad()
    def _taught(self, batch: PatchPairs) -> torch.Tensor:
        """Return what the teacher says of a batch's patches, first column first."""
        assert self.teacher is not None
        device = self.process.device
        patches = torch.cat([batch.a, batch.b]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.autocast):
            return torch.cat(
                [self.teacher(part).float() for part in torch.split(patches, TEACHER_BATCH)]
            )

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
            **({} if self.average is None else {"average": self.average.state()}),
            **({"memory": self.memory.state()} if self.config.memory_size else {}),
        }

    def export(self, held_out: ValidationSet) -> Path:
        """Write the best checkpoint as it ships, validated once more."""
        best = self.folder.path / BEST
        self.validated_network.load_state_dict(validated_tensors(load_checkpoint(best)))
        out = self.folder.path / "hardnet.safetensors"
        peers = {name: _plain(qualities) for name, qualities in self.peers.items()}
        quality = _plain(held_out.evaluate_network(self.validated_network))
        export_descriptor(best, out, {"quality": quality, "peers": peers})
        return out


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
    supports = state["identity"].get("tracks", {}).get("supports", ONE_SUPPORT)
    tensors = validated_tensors(state)
    network = build_hardnet(0, supports=supports, width=len(tensors[FIRST_LAYER]))
    network.load_state_dict(tensors)
    names = ("step", "seconds", "quality", "identity")
    provenance = {**{name: state[name] for name in names}, **metrics}
    provenance["identity"] = _with_names_of_folders(provenance["identity"])
    save_descriptor(out, network, provenance)


def _with_names_of_folders(identity: dict[str, Any]) -> dict[str, Any]:
    """Return what a training was, with the validation scenes' names in place of their paths.

    Weights may be given to others, whom the folders of this machine do not concern.
    """
    if "validation_scenes" not in identity:
        return identity
    scenes = {k: v for k, v in identity["validation_scenes"].items() if k != "models"}
    scenes["images"] = [Path(folder).name for folder in scenes.get("images", ())]
    return {**identity, "validation_scenes": scenes}


def _plain(qualities: Qualities) -> dict[str, Any]:
    return {kind: asdict(quality) for kind, quality in qualities.items()}
