"""Mixed precision and compilation: which parts of the training may run in bfloat16 or compiled."""

import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import TypeVar, cast

import torch

from rekd_hloc.features.detector.network import Rekd
from rekd_hloc.features.detector.steerable import SteerableBackbone

Function = TypeVar("Function", bound=Callable[..., object])


def keep_filters_float32(network: Rekd) -> None:
    """Expand steerable filters in float32 under autocast, and round the finished filters only.

    The filters are sums of many basis elements; rounded one by one, they lose their symmetry.
    """
    backbone = network.backbone
    assert isinstance(backbone, SteerableBackbone)
    for convolution in [*backbone.convolutions, backbone.orientation]:
        expansion = convolution.basisexpansion
        for device in ("cpu", "cuda"):
            expansion.forward = torch.autocast(device, enabled=False)(expansion.forward)


def compile_loss(loss: Function, device: torch.device) -> Function:
    """Compile a loss function; the first call of the result takes a minute.

    This pays for a long chain of cheap operations on large maps of constant size, as the
    orientation loss is. The network is not compiled: torch cannot follow e2cnn's filters.

    Raises:
        ValueError: triton (GPU) or a C++ compiler (CPU) is not installed.
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
    return cast(Function, torch.compile(loss, dynamic=False))
