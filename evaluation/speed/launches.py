"""How many kernels a GPU would start for each photo of a batch, counted on a CPU.

The photos go the ways of a GPU, pretended by :mod:`evaluation.speed.pretended_gpu`. Each operator
that computes or copies something there counts as the kernels that torch starts for it on CUDA; one
that only looks at a tensor in another way, or allocates memory, counts nothing. A convolution is
one, and two with a bias: cuDNN may change the layout of its input before it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from evaluation.reporting.report import Cell, Table
from evaluation.speed.pretended_gpu import PretendedGpu, pretended_gpu
from evaluation.speed.stages import DESCRIPTOR, NETWORK, PATCHES, RANKING, REST, wrapped
from rekd_hloc.config import ExtractConfig
from rekd_hloc.features import captured_graphs
from rekd_hloc.features.extractor import Extractor

FREE = frozenset((
    "_local_scalar_dense", "_reshape_alias", "_unsafe_view", "alias", "as_strided", "chunk",
    "detach", "detach_", "diagonal", "empty", "empty_like", "empty_strided", "expand", "expand_as",
    "is_same_size", "narrow", "new_empty", "new_empty_strided", "numpy_T", "permute", "reshape",
    "resize_", "select", "set_", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose",
    "unbind", "unfold", "unsqueeze", "view", "view_as",
))  # fmt: skip
"""Operators that start no kernel: views, allocations, and the reading of a number, which waits."""
SEVERAL = {
    "_unique2": 12, "constant_pad_nd": 2, "cummax": 2, "cummin": 2, "cumsum": 2, "median": 9,
    "nonzero": 5, "repeat_interleave": 3, "sort": 8, "topk": 12, "unique_dim": 20,
}  # fmt: skip
"""Kernels of operators that are more than one: passes of a radix sort, sums before a selection."""
WAITS = frozenset(("_local_scalar_dense", "_unique2", "nonzero", "repeat_interleave", "unique_dim"))
"""Operators that let the CPU wait until the GPU has done all that it was given."""
FROM_CPU = frozenset(("lift_fresh",))
"""Operators that bring new numbers to the GPU."""
INDEXING = frozenset(("index", "index_put", "index_put_"))
GRAPH = "graph"


@dataclass
class LaunchCount:
    """What one stage asks of a GPU.

    Attributes:
        kernels: that it starts, copies included.
        waits: how often the CPU waits for the GPU.
        operators: kernels of each operator, by its name.
    """

    kernels: int = 0
    waits: int = 0
    operators: Counter[str] = field(default_factory=Counter)


class LaunchCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what a pretended GPU is given while this is entered.

    Args:
        gpu: active around it.
    """

    def __init__(self, gpu: PretendedGpu) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._gpu = gpu
        self._stages = [REST]
        self._is_capturing = False
        self.stages: dict[str, LaunchCount] = {}

    def __torch_dispatch__(
        self, function: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Count an operator, and do it."""
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        if self._gpu.is_working and not name.startswith("upsample"):  # torch has it in Python too
            with self:
                parts = function.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = function(*args, **kwargs)
        if self._gpu.is_working:
            self._count(name, args)
        return result

    def wrap(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose operators count for a stage."""

        def run(*arguments: Any, **options: Any) -> Any:
            self._stages.append(name)
            try:
                return work(*arguments, **options)
            finally:
                self._stages.pop()

        return run

    def capture(
        self, step: Callable[[Tensor], Tensor], example: Tensor, pool: list[Any]
    ) -> Callable[[Tensor], Tensor]:
        """Stand for :func:`rekd_hloc.features.captured_graphs.capture`: a replay counts as one.

        Raises:
            RuntimeError: at a replay, if the step does what no graph can.
        """
        given = example.clone()

        def replay(values: Tensor) -> Tensor:
            given.copy_(values)
            self._is_capturing = True
            try:
                with captured_graphs.capturing():
                    result = step(given)
            finally:
                self._is_capturing = False
            self._add(NETWORK, GRAPH, 1)
            return result.clone()

        return replay

    def _count(self, name: str, args: Sequence[Any]) -> None:
        by_mask = name in INDEXING and _has_mask(args)
        waits = name in WAITS or by_mask or self._gpu.is_reading
        if self._is_capturing:
            if waits or name in FROM_CPU:
                raise RuntimeError(f"{name}: operation not permitted when stream is capturing")
            return
        kernels = 0 if name in FREE else SEVERAL.get(name, 1) + by_mask * SEVERAL["nonzero"]
        if name == "convolution" and args[2] is not None:
            kernels += 1
        self._add(self._stages[-1], name, kernels, waits)

    def _add(self, stage: str, name: str, kernels: int, waits: int = 0) -> None:
        count = self.stages.setdefault(stage, LaunchCount())
        count.kernels += kernels
        count.waits += waits
        count.operators[name] += kernels


def count_launches(
    preset: str, config: ExtractConfig, photo: Path, num_images: int, *, with_graphs: bool
) -> dict[str, LaunchCount]:
    """Return what the stages of a batch of a photo ask of a GPU, once all that is kept is there.

    Args:
        preset: whose weights are used.
        config: options in place of the preset's own.
        photo: image file.
        num_images: in the batch; 1 takes the photo alone.
        with_graphs: whether CUDA graphs are used; a replay counts as one kernel.
    """
    with ExitStack() as stack:
        gpu = stack.enter_context(pretended_gpu())
        extractor = Extractor.from_pretrained(preset, device="cuda", config=config)
        counter = LaunchCounter(gpu)
        extractor(photo)  # which makes what is kept
        uses = 1 if with_graphs else 1 << 30
        stack.enter_context(mock.patch.object(captured_graphs, "CAPTURE_AT", uses))
        stack.enter_context(mock.patch.object(captured_graphs, "capture", counter.capture))
        stack.enter_context(wrapped(extractor, counter.wrap))
        stack.enter_context(counter)
        extractor.extract_all([photo] * num_images)
    return counter.stages


def launches_table(method: str, stages: dict[str, LaunchCount], num_images: int) -> Table:
    """Return one row for each stage, with kernels and waits of one image of the batch."""
    rows: list[list[Cell]] = []
    for name in (NETWORK, RANKING, PATCHES, DESCRIPTOR, REST):
        count = stages.get(name, LaunchCount())
        often = ", ".join(f"{n} {k / num_images:.1f}" for n, k in count.operators.most_common(3))
        rows.append([name, count.kernels / num_images, count.waits / num_images, often])
    total = [sum(float(row[i] or 0) for row in rows) for i in (1, 2)]
    rows.append(["all", *total, ""])
    columns = ["stage", "kernels", "waits", "most of them"]
    return Table(f"launches of {method} for each of {num_images} images", columns, rows)


def _has_mask(args: Sequence[Any]) -> bool:
    """Say whether a tensor is indexed by booleans, which are counted first."""
    return any(index is not None and index.dtype == torch.bool for index in args[1])
