"""One training run of the match network: optimiser steps, checkpoints, export."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rekd_hloc.matching.match_evidence import NUM_EDGE_SIGNS
from rekd_hloc.matching.match_network import (
    MatchJudge,
    MatchNetwork,
    choose_pool,
    save_match_network,
)
from training.common.checkpoint import make_identity
from training.common.network_run import NetworkRun
from training.match_network_config import TrainMatchNetworkConfig
from training.match_network_losses import geometry_loss, label_loss
from training.match_pairs import CORRELATION, LabelledPair, draw_training_pair

NO_INFLUENCE = (
    *("output", "cache", "data", "validation", "validation_images", "validation_unrelated"),
    *("tensorboard", "checkpoint_every"),
)
"""Options that a resumed run may change; what pairs are made of is compared by its hash."""
NUM_MEASURED = 60
"""Pairs that the mean and deviation of the network's input are measured on."""
FEWEST = 8
"""Matches without which a pair teaches nothing."""


class MatchNetworkRun(NetworkRun[TrainMatchNetworkConfig, MatchNetwork]):
    """The run of a match network.

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
        with torch.random.fork_rng([]):
            torch.manual_seed(config.seed)
            network = MatchNetwork(
                width=config.width,
                edge_width=config.edge_width,
                num_heads=config.num_heads,
                num_layers=config.num_layers,
                num_extra=len(CORRELATION) if config.data.correlation else 0,
            )
        measure_signs(network, pairs)
        super().__init__(
            config,
            network,
            optimiser="adamw",
            schedule="cosine",
            score="f",
            identity=make_identity(asdict(config), NO_INFLUENCE, **hashes),
            no_influence=NO_INFLUENCE,
        )

    def advance(self, batch: Sequence[LabelledPair]) -> dict[str, float]:
        """Take one optimiser step and return the losses by name.

        Raises:
            FloatingPointError: the loss is not finite; the message names the step.
        """
        self.begin_step()
        stages = self.network([pair.evidence for pair in batch])
        losses = [label_loss(logits, batch) for logits in stages]
        weights = self.config.stage_weights
        loss = sum((w * part for w, part in zip(weights, losses, strict=True)), torch.zeros(()))
        values = {f"stage_{i}": part.item() for i, part in enumerate(losses)}
        if self.step >= self.config.geometry_from * self.config.steps:
            geometry = geometry_loss(stages[-1], batch)
            loss = loss + self.config.geometry_weight * geometry
            values["geometry"] = geometry.item()
        return self.end_step(loss, values)

    def export(self) -> Path:
        """Write the best checkpoint as it ships."""
        provenance = self.load_best()
        out = self.folder.path / "match-network.safetensors"
        judge = MatchJudge(self.network, provenance["quality"]["threshold"])
        save_match_network(out, judge, provenance)
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
    signs, edges = torch.zeros(0, len(network.mean)), torch.zeros(0, NUM_EDGE_SIGNS)
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
