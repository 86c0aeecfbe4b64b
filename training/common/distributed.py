"""Training in several processes: the rank and device of this one, and sums and means over all.

``torchrun`` starts the processes and names each in its environment. Without it there is one
process, and every function here returns its argument.
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

from rekd_hloc.devices import choose_device


@dataclass(frozen=True)
class Process:
    """This process among all that train one network together."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Say whether this is the one that validates, writes and reports."""
        return self.rank == 0

    def share_of(self, batch_size: int) -> int:
        """Return the number of pairs of a joint batch that each process takes.

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
    """Join the other processes of the run, if there are any, and leave them at the end.

    Args:
        device: ``cuda``, ``cpu``, or ``auto`` for a GPU where there is one.

    Raises:
        ValueError: there is no GPU, or fewer than processes.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    chosen = choose_process_device(device, int(os.environ.get("LOCAL_RANK", "0")))
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


def choose_process_device(name: str, local_rank: int) -> torch.device:
    """Return the device of a process: of several GPUs each process has its own.

    Raises:
        ValueError: torch knows no such device or sees none; or there are fewer GPUs than processes.
    """
    device = choose_device(name)
    if device.type != "cuda":
        return device
    num_gpus = torch.cuda.device_count()
    if local_rank >= num_gpus:
        raise ValueError(
            f"device={name} needs GPU number {local_rank}, torch sees {num_gpus} GPUs; use "
            "device=cpu, or start fewer processes"
        )
    return torch.device("cuda", local_rank)


def average_over_processes(values: Tensor) -> Tensor:
    """Return the mean of all processes' tensors, without a gradient."""
    if not dist.is_initialized():
        return values.detach()
    return _all_reduce(values.detach()) / dist.get_world_size()


def sum_over_processes(values: Tensor) -> Tensor:
    """Return the sum of all processes' tensors; gradients flow back to every one of them."""
    if not dist.is_initialized():
        return values
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total


def any_process(flag: bool, device: torch.device) -> bool:  # noqa: FBT001  (a plain truth value)
    """Say whether the flag is set in at least one process; all processes get the same result."""
    return bool(average_over_processes(torch.tensor(float(flag), device=device)) > 0)


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
