"""The training loop: steps, validations at intervals, checkpoints, curves, optimiser.

A trainer brings its own network, losses and validation (:class:`TrainingRun`); what all trainers
do around them is here.
"""

import logging
import math
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from training.common.checkpoint import RunFolder
from training.common.distributed import Process, any_process
from training.common.signal_handler import SignalHandler
from training.common.tensorboard_logger import Picture, TensorBoardLogger

logger = logging.getLogger(__name__)

Batch = TypeVar("Batch")
BatchIn = TypeVar("BatchIn", contravariant=True)


class LoopConfig(Protocol):
    """Declare the options of a trainer that the loop reads."""

    @property
    def steps(self) -> int:
        """Return number of optimiser steps."""

    @property
    def validate_every(self) -> int:
        """Steps between two validations."""

    @property
    def checkpoint_every(self) -> int:
        """Steps between two checkpoints without validation; 0 for none."""

    @property
    def tensorboard(self) -> bool:
        """Say whether to write curves."""


class TrainingRun(Protocol[BatchIn]):
    """Network, optimiser and step counter of one run, tied to its output folder."""

    folder: RunFolder
    process: Process
    step: int
    validated_step: int

    @property
    def config(self) -> LoopConfig:
        """Return the run's options."""

    @property
    def learning_rate(self) -> float:
        """That of the next step."""

    def advance(self, batch: BatchIn) -> dict[str, float]:
        """Take one optimiser step and return the losses by name."""

    def save(self) -> None:
        """Write the checkpoint that a later run goes on from."""


@dataclass(frozen=True)
class Validation:
    """What a validation reports, once the run has recorded it.

    Attributes:
        metrics: by name; those of several sets nested by the set's name.
        summary: one line.
        draw_pictures: draws what TensorBoard shows; called only where someone will see it.
    """

    metrics: Mapping[str, Any]
    summary: str
    draw_pictures: Callable[[], Mapping[str, Picture]] | None = None


def run_steps(
    run: TrainingRun[Batch],
    batches: Generator[Batch, None, None],
    validate: Callable[[], Validation],
    stop: SignalHandler,
    *,
    quiet: bool,
) -> None:
    """Take the remaining steps of a run.

    Args:
        run: the run; of several processes all must take part.
        batches: those of the remaining steps.
        validate: measures the network and records the result in the run's folder.
        stop: leaves the loop after the running step, with a checkpoint of it.
        quiet: no progress bar.

    Raises:
        FloatingPointError: a loss is not finite; the message names the step and the losses.
        KeyboardInterrupt: stopped from outside, after a checkpoint.
    """
    config, is_main = run.config, run.process.is_main
    events = run.folder.path / "tensorboard"
    with (
        tqdm(total=config.steps, initial=run.step, disable=quiet, unit="step") as bar,
        closing(
            TensorBoardLogger(events, run.step + 1, wanted=config.tensorboard and is_main)
        ) as curves,
        closing(batches),
    ):
        _validate_if_due(run, validate, curves, bar)  # stopped between a step and its validation
        for batch in batches:
            rate = run.learning_rate
            losses = run.advance(batch)
            curves.add_step(run.step, losses, rate)
            bar.update()
            bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()})
            if any_process(stop.requested, run.process.device):
                _save_and_leave(run)
            _validate_if_due(run, validate, curves, bar)
            if is_main and config.checkpoint_every and run.step % config.checkpoint_every == 0:
                run.save()


def _validate_if_due(
    run: TrainingRun[Any],
    validate: Callable[[], Validation],
    curves: TensorBoardLogger,
    bar: "tqdm[Any]",
) -> None:
    is_due = run.step % run.config.validate_every == 0 or run.step == run.config.steps
    if not (run.process.is_main and is_due and run.step > run.validated_step):
        return
    validation = validate()
    draw = validation.draw_pictures if curves.is_open else None
    curves.add_validation(run.step, _flat(validation.metrics), draw() if draw else None)
    bar.write(f"step {run.step}: {validation.summary}", file=sys.stderr)


def _flat(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Nested metrics as ``set/metric``."""
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        inner = _flat(value) if isinstance(value, Mapping) else None
        flat.update(
            {name: value} if inner is None else {f"{name}/{k}": v for k, v in inner.items()}
        )
    return flat


def _save_and_leave(run: TrainingRun[Any]) -> None:
    if run.process.is_main:
        run.save()
    folder = run.folder.path
    logger.info("stopped at step %d of %d, saved in %s", run.step, run.config.steps, folder)
    raise KeyboardInterrupt


def load_ahead(
    draw: Callable[[int], Batch], first: int, last: int, num_threads: int
) -> Generator[Batch, None, None]:
    """Yield ``draw(step)`` for each step from ``first`` to before ``last``, a few steps ahead.

    The order and the batches are the same for any number of threads; with 0 each batch is drawn
    when it is asked for.
    """
    if num_threads == 0:
        yield from map(draw, range(first, last))
        return
    with ThreadPoolExecutor(num_threads) as pool:
        ahead: deque[Future[Batch]] = deque()
        try:
            for step in range(first, last):
                ahead.append(pool.submit(draw, step))
                if len(ahead) > num_threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def scheduled_rate(
    step: int, *, highest: float, num_steps: int, warmup_steps: int, schedule: str
) -> float:
    """Return the learning rate of a step, after a linear warm-up to ``highest``.

    Args:
        step: from 0.
        highest: learning rate at the end of the warm-up.
        num_steps: of the whole run.
        warmup_steps: steps of the warm-up.
        schedule: ``halve`` once after half of the steps, ``cosine`` to zero, or ``linear`` to zero;
            the last falls during the warm-up too.
    """
    if schedule == "linear":
        warm = min(1.0, (step + 1) / max(warmup_steps, 1))
        return highest * warm * (1 - step / num_steps)
    if step < warmup_steps:
        return highest * (step + 1) / warmup_steps
    if schedule == "halve":
        return highest * (0.5 if step >= num_steps / 2 else 1.0)
    return highest * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def build_optimiser(
    name: str, groups: Iterable[Mapping[str, Any]], learning_rate: float
) -> torch.optim.Optimizer:
    """Build ``adam``, ``adamw``, or ``sgd`` with momentum and dampening of 0.9 (HardNet's).

    Args:
        name: of the optimiser.
        groups: of parameters, each with its ``weight_decay``.
        learning_rate: of the first step.
    """
    parameters = [dict(group) for group in groups]
    if name == "adam":
        return torch.optim.Adam(parameters, lr=learning_rate)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate)
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9, dampening=0.9)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups of parameters."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def take_step(
    optimiser: torch.optim.Optimizer, loss: Tensor, losses: Mapping[str, float], step: int
) -> None:
    """Lower a loss by one step of the optimiser.

    Args:
        optimiser: holds the parameters.
        loss: to lower.
        losses: the loss and its parts as numbers; those of the joint batch of all processes.
        step: for the error's text.

    Raises:
        FloatingPointError: a loss is not finite; the message names the step and the losses.
    """
    if not all(math.isfinite(value) for value in losses.values()):
        raise FloatingPointError(f"loss is not finite at step {step}: {dict(losses)}")
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimiser.step()
