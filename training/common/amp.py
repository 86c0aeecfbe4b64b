"""Faster training: what may run in bfloat16, and what torch.compile is good for."""

import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import TypeVar

import torch

from rekd_hloc.features.detector.network import Rekd
from rekd_hloc.features.detector.steerable import SteerableBackbone

Function = TypeVar("Function", bound=Callable[..., object])


def keep_filters_exact(network: Rekd) -> None:
    """Under autocast, expand steerable filters in float32 and round the finished filters only.

    The filters are sums of many basis elements; rounded one by one, they lose their symmetry.
    """
    backbone = network.backbone
    assert isinstance(backbone, SteerableBackbone)
    for convolution in [*backbone.convolutions, backbone.orientation]:
        expansion = convolution.basisexpansion
        for device in ("cpu", "cuda"):
            expansion.forward = torch.autocast(device, enabled=False)(expansion.forward)


def compile_loss(loss: Function, device: torch.device) -> Function:
    """The same function, compiled; its first call takes a minute.

    Worth it for a long chain of cheap operations on large maps of constant size, which is what the
    orientation loss is. The network is left alone: torch cannot follow e2cnn's filters.

    Raises:
        ValueError: what the compiler needs is not installed.
    """
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ValueError("compile=true needs triton on a GPU: pip install triton, or compile=false")
    compiler = os.environ.get("CXX", "")
    candidates = [compiler] if compiler else ["g++", "clang++", "c++", "cl"]
    if device.type == "cpu" and not any(shutil.which(name) for name in candidates):
        raise ValueError(
            f"compile=true needs a C++ compiler, and none of {', '.join(candidates)} is installed; "
            "install g++, name another in the environment variable CXX, or use compile=false"
        )
    compiled: Function = torch.compile(loss, dynamic=False)
    return compiled
