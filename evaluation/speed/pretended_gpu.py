"""A GPU for machines that have none: tensors that say they are there, and refuse to be mixed.

What runs below :class:`PretendedGpu` takes ``cuda`` (or another kind) for a device, goes the ways
that are for GPUs only, and fails as it would there when tensors of two devices meet; the CPU does
the work.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rekd_hloc.features import captured_graphs

KINDS = ("cuda", "mps", "xpu")
WITHOUT_FLOAT64 = ("mps", "xpu")
"""XPU: some of them."""
CPU = torch.device("cpu")
MAY_MIX = frozenset(
    ("to", "cpu", "cuda", "copy_", "__setitem__", "type_as", "__set__")
    + ("_has_compatible_shallow_copy_type",)
)
"""Functions that take tensors of two devices."""
READS = frozenset(("numpy", "__array__"))
"""Functions that only tensors in the CPU's memory have."""


def is_there(value: object) -> bool:
    """Say whether a tensor is on the pretended GPU."""
    return isinstance(value, Tensor) and getattr(value, "_is_there", False)


class PretendedGpu(TorchFunctionMode):
    """While it is active, ``cuda`` is a device whose tensors lie in the CPU's memory.

    Args:
        kind: of the device, one of ``KINDS``; some of them refuse float64.

    Attributes:
        gpu: the device.
        is_working: while a function runs that a GPU would compute, or copy from or to it.
        is_reading: while one copies from there to the CPU.
    """

    def __init__(self, kind: str = "cuda") -> None:
        super().__init__()
        self.gpu = torch.device(kind, 0)
        self.is_working = self.is_reading = False

    def __torch_function__(
        self, function: Callable[..., Any], types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Do on the CPU what is asked for, and note where the result would be."""
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        if name == "__get__" and getattr(function, "__self__", None) is Tensor.device:
            return self.gpu if is_there(args[0]) else CPU
        if name == "__get__" and getattr(function, "__self__", None) is Tensor.is_cuda:
            return is_there(args[0]) and self.gpu.type == "cuda"
        if function is torch.device or name == "_parse_to":  # these make devices, not tensors
            return function(*args, **kwargs)
        if name in READS and is_there(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu()")
        given = list(_tensors((args, kwargs)))
        if name not in MAY_MIX:
            _refuse_mixture(name, given, args)
        wanted = self._wanted_device(name, args, kwargs)
        if name == "cuda":
            return _mark(args[0].clone(), True)
        there = wanted.type != "cpu" if wanted is not None else any(map(is_there, given))
        if name in ("__getitem__", "copy_"):
            there = is_there(args[0])
        args, kwargs = _on_cpu(args), _on_cpu(kwargs)
        self.is_reading = not there and any(map(is_there, given))
        self.is_working = there or self.is_reading
        try:
            result = function(*args, **kwargs)
            if name == "__set__" and len(args) == 2:
                _mark(args[0], is_there(args[1]))
                return result
            if name in ("to", "cpu") and wanted is not None and result is args[0]:
                if there == is_there(result):
                    return result
                result = result.clone()  # another device is another tensor
        finally:
            self.is_working = self.is_reading = False
        if there and self.gpu.type in WITHOUT_FLOAT64:
            _refuse_float64(result)
        return _mark(result, there)

    def _wanted_device(self, name: str, args: Any, kwargs: dict[str, Any]) -> torch.device | None:
        """The device that a call asks for; None if it asks for none."""
        if name == "cpu":
            return CPU
        if kwargs.get("device") is not None:
            return torch.device(kwargs["device"])
        if name == "to":
            for value in args[1:]:
                if isinstance(value, Tensor):
                    return self.gpu if is_there(value) else CPU
                if _is_device(value):
                    return torch.device(value)
        return None


@contextlib.contextmanager
def pretended_gpu(kind: str = "cuda") -> Iterator[PretendedGpu]:
    """Pretend to be a machine with such a GPU, and none of another kind."""
    with contextlib.ExitStack() as stack:
        for other, name in zip(KINDS, ("cuda", "backends.mps", "xpu"), strict=True):
            answer = mock.patch(f"torch.{name}.is_available", return_value=other == kind)
            stack.enter_context(answer)
        # what would be a graph runs as it is
        stack.enter_context(mock.patch.object(captured_graphs, "capture", lambda step, *_: step))
        yield stack.enter_context(PretendedGpu(kind))


def _refuse_mixture(name: str, given: list[Tensor], args: Any) -> None:
    if name == "__getitem__":
        if not is_there(args[0]) and any(is_there(t) for t in given[1:]):
            raise RuntimeError("indices should be on the same device as the indexed tensor (cpu)")
        return
    places = {is_there(tensor) for tensor in given if tensor.ndim}
    if len(places) > 1:
        raise RuntimeError(
            f"{name}: Expected all tensors to be on the same device, but found at least two "
            "devices, cuda:0 and cpu!"
        )


def _refuse_float64(result: Any) -> None:
    if any(tensor.dtype in (torch.float64, torch.complex128) for tensor in _tensors(result)):
        raise TypeError("Cannot convert a tensor to float64: the device doesn't support float64")


def _is_device(value: object) -> bool:
    return isinstance(value, torch.device) or (
        isinstance(value, str) and value.partition(":")[0] in ("cpu", *KINDS)
    )


def _on_cpu(value: Any) -> Any:
    if _is_device(value) and torch.device(value).type != "cpu":
        return CPU
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_on_cpu(item) for item in value)
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def _mark(value: Any, there: bool) -> Any:
    for tensor in _tensors(value):
        tensor._is_there = there  # type: ignore[attr-defined]
    return value
