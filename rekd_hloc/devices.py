"""Where computations run: torch devices by name, and the cores of this process."""

import os

import torch

WITH_FLOAT64 = ("cpu", "cuda")
"""Kinds of device that surely compute in float64; Apple's do not, and Intel's not all."""


def choose_device(name: str) -> torch.device:
    """Return the torch device of a name; ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        ValueError: torch does not know the device, or this machine lacks it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"no device {name!r}; use auto, cpu, cuda or cuda:0") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} asked for, but torch sees no CUDA here; use cpu")
    try:
        torch.zeros(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {name!r} here; use auto, cpu, cuda or cuda:0") from error
    return device


def exact_device(device: torch.device) -> torch.device:
    """Return where to compute in float64 what belongs to a device: there, or on the CPU."""
    return device if device.type in WITH_FLOAT64 else torch.device("cpu")


def num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
