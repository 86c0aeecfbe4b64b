"""One training run of the match network: optimiser steps, checkpoints, export."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rekd_hloc.config import config_json
from rekd_hloc.matching.match_evidence import NUM_EDGE_SIGNS, NUM_SIGNS
from rekd_hloc.matching.match_network import (
    MatchJudge,
    MatchNetwork,
    choose_pool,
    save_match_network,
)
from training.common.checkpoint import BEST, RunFolder, load_checkpoint, make_identity
from training.common.distributed import Process
from training.common.loop import build_optimiser, scheduled_rate, set_learning_rate, take_step
from training.match_network_config import TrainMatchNetworkConfig
from training.match_network_losses import geometry_loss, label_loss
from training.match_pairs import LabelledPair, draw_training_pair

logger = logging.getLogger(__name__)

NO_INFLUENCE = (
    *("output", "cache", "data", "validation", "validation_images", "validation_unrelated"),
    *("tensorboard", "checkpoint_every"),
)
"""Options that a resumed run may change; what pairs are made of is compared by its hash."""
NUM_MEASURED = 60
"""Pairs that the mean and deviation of the network's input are measured on."""
FEWEST = 8
"""Matches without which a pair teaches nothing."""


class MatchNetworkRun:
    """Network, optimiser and step counter, tied to the files of one output folder.

    Args:
        config: the run's options.
        pairs: to learn from; the network's input is normalised by them.
        hashes: of the data that it is trained on.
    """

    def __init__(
        self,
        config: TrainMatchNetworkConfig,
        pairs: Sequence[LabelledPair],
        hashes: dict[str, Any],
    ) -> None:
        self.config = config
        self.folder = RunFolder(Path(config.output), config_json(config))
        self.process = Process(0, 1, torch.device("cpu"))
        with torch.random.fork_rng([]):
            torch.manual_seed(config.seed)
            self.network = MatchNetwork(
                width=config.width,
                edge_width=config.edge_width,
                num_heads=config.num_heads,
                num_layers=config.num_layers,
            )
        measure_signs(self.network, pairs)
        groups = [{"params": self.network.parameters(), "weight_decay": config.weight_decay}]
        self.optimiser = build_optimiser("adamw", groups, config.learning_rate)
        self.step = 0
        self.validated_step = 0
        self.last_losses: dict[str, float] = {}
        self.quality: dict[str, float] = {}
        self.identity = make_identity(asdict(config), NO_INFLUENCE, **hashes)
        self._resume()
        self.folder.begin(self.validated_step)

    def _resume(self) -> None:
        state = self.folder.resume(self.identity, self.identity, NO_INFLUENCE)
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.validated_step = state["step"], state["validated_step"]
        self.last_losses, self.quality = state["losses"], state["quality"]
        logger.info("resuming %s at step %d", self.folder.last, self.step)

    @property
    def learning_rate(self) -> float:
        """Return the learning rate of the next step."""
        return scheduled_rate(
            self.step,
            highest=self.config.learning_rate,
            num_steps=self.config.steps,
            warmup_steps=self.config.warmup_steps,
            schedule="cosine",
        )

    def advance(self, batch: Sequence[LabelledPair]) -> dict[str, float]:
        """Take one optimiser step and return the losses by name.

        Raises:
            FloatingPointError: the loss is not finite; the message names the step.
        """
        set_learning_rate(self.optimiser, self.learning_rate)
        self.network.train()
        stages = self.network([pair.evidence for pair in batch])
        losses = [label_loss(logits, batch) for logits in stages]
        weights = self.config.stage_weights
        loss = sum((w * part for w, part in zip(weights, losses, strict=True)), torch.zeros(()))
        values = {f"stage_{i}": part.item() for i, part in enumerate(losses)}
        if self.step >= self.config.geometry_from * self.config.steps:
            geometry = geometry_loss(stages[-1], batch)
            loss = loss + self.config.geometry_weight * geometry
            values["geometry"] = geometry.item()
        values = {"loss": loss.item(), **values}
        take_step(self.optimiser, loss, values, self.step)
        self.last_losses = values
        self.step += 1
        return values

    def record(self, quality: dict[str, float]) -> None:
        """Append a validation of this step to the log and write the checkpoints."""
        self.quality, self.validated_step = quality, self.step
        metrics = {**self.last_losses, **quality}
        self.folder.record(self.step, metrics, quality["f"], self._state())

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
            "quality": self.quality,
            "identity": self.identity,
        }

    def export(self) -> Path:
        """Write the best checkpoint as it ships."""
        state = load_checkpoint(self.folder.path / BEST)
        self.network.load_state_dict(state["network"])
        names = ("step", "seconds", "quality", "identity")
        out = self.folder.path / "match-network.safetensors"
        judge = MatchJudge(self.network.eval(), state["quality"]["threshold"])
        save_match_network(out, judge, {name: state[name] for name in names})
        return out


def draw_batch(
    pairs: Sequence[LabelledPair], config: TrainMatchNetworkConfig, step: int
) -> list[LabelledPair]:
    """Draw the pairs of a step; an epoch has every pair once and drops the last few."""
    size = min(config.pairs_per_step, len(pairs))
    per_epoch = len(pairs) // size
    order = np.random.default_rng([config.seed, step // per_epoch]).permutation(len(pairs))
    rng = np.random.default_rng([config.seed, step, 1])
    chosen = order[(step % per_epoch) * size :][:size]
    drawn = [draw_training_pair(rng, pairs[int(i)], config.max_matches) for i in chosen]
    enough = [pair for pair in drawn if len(pair) >= FEWEST]
    return enough or [max(pairs, key=len)]


@torch.no_grad()
def measure_signs(network: MatchNetwork, pairs: Sequence[LabelledPair]) -> None:
    """Set the mean and deviation of the network's input to those of some pairs."""
    picked = [pairs[int(i)] for i in np.linspace(0, len(pairs) - 1, min(len(pairs), NUM_MEASURED))]
    signs, edges = torch.zeros(0, NUM_SIGNS), torch.zeros(0, NUM_EDGE_SIGNS)
    for pair in picked:
        evidence = pair.evidence
        pool = choose_pool(-evidence.ratio.amax(dim=1))
        signs = torch.cat([signs, evidence.signs().float()])
        edges = torch.cat([edges, evidence.edge_signs(*evidence.neighbours(pool), torch.float32)])
    for mean, deviation, values in (
        (network.mean, network.deviation, signs),
        (network.edge_mean, network.edge_deviation, edges),
    ):
        if len(values) > 1:
            mean.copy_(values.mean(dim=0))
            deviation.copy_(values.std(dim=0).clamp(min=1e-2))
