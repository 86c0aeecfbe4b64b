"""How exactly convolutions are computed, whatever torch's global switches say.

A GPU by default rounds the factors of float32 convolutions to 10 bits (TF32): features would differ
from a CPU's, and rotations by 90 degrees would not be exact. torch's switch is one for the whole
process: what other threads convolve meanwhile follows it too.
"""

import contextlib
from collections.abc import Iterator

import torch

TF32 = "tf32"
FLOAT32 = "ieee"
WITH_AUTOCAST = ("cpu", "cuda", "xpu")


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Convolutions in float32 proper: no autocast, no TF32."""
    with _autocast(device, enabled=False), _tf32(device, allowed=False):
        yield


@contextlib.contextmanager
def low_precision(device: torch.device) -> Iterator[None]:
    """Convolutions in what the device does fast: TF32 on CUDA, bfloat16 on a CPU or an XPU.

    A CPU without instructions for bfloat16 stays exact: it would be slower in it.
    """
    is_fast = device.type != "cuda" and (device.type != "cpu" or has_fast_bfloat16())
    with _autocast(device, enabled=is_fast), _tf32(device, allowed=True):
        yield


@contextlib.contextmanager
def half_precision(device: torch.device) -> Iterator[None]:
    """Convolutions in 16 bits: float16, the finer of two kinds, on CUDA; else bfloat16."""
    kind = torch.float16 if device.type == "cuda" else torch.bfloat16
    with _autocast(device, enabled=True, kind=kind):
        yield


def has_fast_bfloat16() -> bool:
    """Say whether this CPU has instructions for bfloat16, as far as torch tells."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes)


def rounds_to_tf32() -> bool:
    """Say whether a GPU's convolutions are in TF32 now."""
    convolution = getattr(torch.backends.cudnn, "conv", None)  # torch 2.9 and newer
    if convolution is None:
        return torch.backends.cudnn.allow_tf32
    return str(convolution.fp32_precision) == TF32


def _autocast(
    device: torch.device, *, enabled: bool, kind: torch.dtype = torch.bfloat16
) -> contextlib.AbstractContextManager[None]:
    """16 bits or not; Apple's GPU and exported graphs always compute in what they are given."""
    if device.type not in WITH_AUTOCAST or torch.compiler.is_compiling():
        return contextlib.nullcontext()
    autocast: contextlib.AbstractContextManager[None] = torch.autocast(
        device.type, kind, enabled=enabled
    )
    return autocast


@contextlib.contextmanager
def _tf32(device: torch.device, *, allowed: bool) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    convolution = getattr(torch.backends.cudnn, "conv", None)
    # the newer switch where there is one: the older cannot be read once a program uses both
    holder, name = (
        (torch.backends.cudnn, "allow_tf32")
        if convolution is None
        else (convolution, "fp32_precision")
    )
    before = getattr(holder, name)
    setattr(holder, name, allowed if convolution is None else (TF32 if allowed else FLOAT32))
    try:
        yield
    finally:
        setattr(holder, name, before)
