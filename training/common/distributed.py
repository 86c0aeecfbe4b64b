"""Training in several processes: who this one is, and what all of them agree on.

``torchrun`` starts the processes and names each in its environment. Without it there is one, and
every function here gives back what it got.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Process:
    """This process among all that share a run."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the one that validates, writes and reports."""
        return self.rank == 0

    def share_of(self, batch_size: int) -> int:
        """Pairs of a joint batch that each process takes.

        Raises:
            ValueError: the batch cannot be shared evenly.
        """
        if batch_size % self.count:
            raise ValueError(
                f"batch_size must be a multiple of the {self.count} processes, got {batch_size}"
            )
        return batch_size // self.count


@contextlib.contextmanager
def join_processes(device: str) -> Iterator[Process]:
    """Meet the other processes of the run, if there are any; leave them at the end.

    Args:
        device: ``cuda``, ``cpu``, or ``auto`` for a GPU where there is one.

    Raises:
        ValueError: there is no GPU, or fewer than processes.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if count == 1:
        yield Process(0, 1, chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    if rank > 0:
        logging.disable(logging.INFO)  # one process reports for all
    try:
        yield Process(rank, count, chosen)
    finally:
        dist.destroy_process_group()


def choose_device(device: str, local_rank: int = 0) -> torch.device:
    """The device of a process.

    Raises:
        ValueError: no such name; there is no GPU, or fewer than processes.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"no device {device!r}; use auto, cpu or cuda")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    found = torch.cuda.device_count()
    if local_rank >= found:
        raise ValueError(
            f"device={device} needs GPU number {local_rank}, torch sees {found} GPUs; use "
            "device=cpu, or start fewer processes"
        )
    return torch.device("cuda", local_rank)


def average_over_processes(values: Tensor) -> Tensor:
    """The mean of each process's tensor, without a gradient."""
    if not dist.is_initialized():
        return values.detach()
    return _all_reduce(values.detach()) / dist.get_world_size()


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of each process's tensor; gradients flow back to every one of them."""
    if not dist.is_initialized():
        return values
    total: Tensor = _Sum.apply(values)
    return total


def any_process(said: bool, device: torch.device) -> bool:  # noqa: FBT001  (a plain truth value)
    """Whether at least one process says so; all get the same answer."""
    return bool(average_over_processes(torch.tensor(float(said), device=device)) > 0)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ANN401  (torch's context)
        return _all_reduce(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        return _all_reduce(gradient)


def _all_reduce(values: Tensor) -> Tensor:
    total = values.clone()
    dist.all_reduce(total)
    return total
