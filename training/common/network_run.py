"""What runs of a small network on one CPU have in common: optimiser, checkpoints, resuming.

A trainer brings its network, its losses (``advance``) and what it exports.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import nn

from rekd_hloc.config import config_json
from training.common.checkpoint import BEST, RunFolder, load_checkpoint
from training.common.distributed import Process
from training.common.loop import (
    LoopConfig,
    build_optimiser,
    scheduled_rate,
    set_learning_rate,
    take_step,
)

logger = logging.getLogger(__name__)


class NetworkRunConfig(LoopConfig, Protocol):
    """Declare the options that such a run reads, beside those of the loop."""

    @property
    def output(self) -> str:
        """Return the folder of the run."""

    @property
    def learning_rate(self) -> float:
        """Return the highest learning rate."""

    @property
    def warmup_steps(self) -> int:
        """Return the steps until it is reached."""

    @property
    def weight_decay(self) -> float:
        """Return the decay of all parameters."""


Config = TypeVar("Config", bound=NetworkRunConfig)
Network = TypeVar("Network", bound=nn.Module)


class NetworkRun(Generic[Config, Network]):
    """Network, optimiser and step counter, tied to the files of one output folder.

    Args:
        config: the run's options.
        network: as it is before the first step; a checkpoint in the folder replaces its weights.
        optimiser: as for :func:`training.common.loop.build_optimiser`.
        schedule: as for :func:`training.common.loop.scheduled_rate`.
        score: name of the figure of a validation by which the best checkpoint is chosen.
        identity: what a run must have been begun with to be gone on with.
        no_influence: options that are not compared.

    Raises:
        ValueError: the folder holds another run.
    """

    def __init__(
        self,
        config: Config,
        network: Network,
        *,
        optimiser: str,
        schedule: str,
        score: str,
        identity: dict[str, Any],
        no_influence: tuple[str, ...],
    ) -> None:
        self.config = config
        self.network = network
        self.folder = RunFolder(Path(config.output), config_json(config))
        self.process = Process(0, 1, torch.device("cpu"))
        groups = [{"params": network.parameters(), "weight_decay": config.weight_decay}]
        self.optimiser = build_optimiser(optimiser, groups, config.learning_rate)
        self.step = 0
        self.validated_step = 0
        self.last_losses: dict[str, float] = {}
        self.quality: dict[str, float] = {}
        self.identity = identity
        self._schedule, self._score = schedule, score
        self._resume(no_influence)
        self.folder.begin(self.validated_step)

    def _resume(self, no_influence: tuple[str, ...]) -> None:
        state = self.folder.resume(self.identity, self.identity, no_influence)
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
            schedule=self._schedule,
        )

    def begin_step(self) -> None:
        """Make network and optimiser ready for the losses of a step."""
        set_learning_rate(self.optimiser, self.learning_rate)
        self.network.train()

    def end_step(self, loss: torch.Tensor, parts: Mapping[str, float]) -> dict[str, float]:
        """Lower a loss by one step, and return it with its parts, by name.

        Raises:
            FloatingPointError: the loss is not finite; the message names the step.
        """
        values = {"loss": loss.item(), **parts}
        take_step(self.optimiser, loss, values, self.step)
        self.last_losses = values
        self.step += 1
        return values

    def record(self, quality: dict[str, float]) -> None:
        """Append a validation of this step to the log and write the checkpoints."""
        self.quality, self.validated_step = quality, self.step
        metrics = {**self.last_losses, **quality}
        self.folder.record(self.step, metrics, quality[self._score], self._state())

    def save(self) -> None:
        """Write the checkpoint that a later run goes on from."""
        self.folder.save(self._state())

    def load_best(self) -> dict[str, Any]:
        """Give the network the weights of the best checkpoint.

        Returns:
            Where they come from: step, seconds, figures of the validation, identity of the run.
        """
        state = load_checkpoint(self.folder.path / BEST)
        self.network.load_state_dict(state["network"])
        self.network.eval()
        return {name: state[name] for name in ("step", "seconds", "quality", "identity")}

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
