"""Where computations run: torch devices by name, and threads of the CPU."""

from functools import lru_cache

import cv2
import torch
from torch import Tensor

from rekd_hloc.processor import limit_cores, num_cores

WITH_FLOAT64 = ("cpu", "cuda")
"""Kinds of device that surely compute in float64; Apple's do not, and Intel's not all."""
ACCELERATORS = ("cuda", "mps", "xpu")
"""Kinds of device that ``auto`` takes, the first that is there; else the CPU."""


def choose_device(name: str) -> torch.device:
    """Return the torch device of a name; ``auto`` is CUDA, Apple's MPS or Intel's XPU, or the CPU.

    Raises:
        ValueError: torch does not know the device, this machine lacks it, or it cannot compute.
    """
    if name == "auto":
        return torch.device(next((kind for kind in ACCELERATORS if _is_there(kind)), "cpu"))
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"no device {name!r}; {_usable()}") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type not in ACCELERATORS:
        raise ValueError(f"device {name!r} cannot run this; {_usable()}")
    if not _is_there(device.type):
        raise ValueError(
            f"device {name!r} asked for, but torch sees no {device.type.upper()} here; {_usable()}"
        )
    try:
        probe = torch.ones(1, device=device) + 1
        works = float(probe.cpu()) == 2.0
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(f"no device {name!r} here; {_usable()}") from error
    if not works:
        raise ValueError(f"device {name!r} computes wrongly here; {_usable()}")
    return device


def exact_device(device: torch.device) -> torch.device:
    """Return where to compute in float64 what belongs to a device: there, or on the CPU."""
    return device if device.type in WITH_FLOAT64 else torch.device("cpu")


@lru_cache(maxsize=512)
def kept_tensor(
    values: tuple[float, ...] | tuple[tuple[float, ...], ...],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Return constants as a tensor, which must not be changed: later calls give the same one.

    A copy to a GPU costs as much as any step there, and none may be part of a captured graph.
    """
    with torch.inference_mode(mode=False):  # training may need what inference has kept
        return torch.tensor(values, dtype=dtype, device=device)


def use_threads(count: int | None) -> None:
    """Compute on at most so many cores from now on; None takes those that this process may use.

    More than torch has now are taken only if asked for, so that ``OMP_NUM_THREADS`` holds.

    Raises:
        ValueError: not positive.
    """
    if count is not None:
        limit_cores(count)
    num_threads = count or min(num_cores(), torch.get_num_threads())
    torch.set_num_threads(num_threads)
    cv2.setNumThreads(num_threads)


def _is_there(kind: str) -> bool:
    """Say whether torch sees a device of a kind; old releases lack some kinds."""
    holder = getattr(torch.backends, kind, None) if kind == "mps" else getattr(torch, kind, None)
    return holder is not None and bool(holder.is_available())


def _usable() -> str:
    """Name the devices of this machine."""
    there = [kind for kind in ACCELERATORS if _is_there(kind)]
    if "cuda" in there:
        numbers = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        there = [*there, *numbers] if len(numbers) > 1 else there
    return f"use {', '.join(['auto', *there])} or cpu"
