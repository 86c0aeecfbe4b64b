"""Steps that a GPU repeats: recorded once as a CUDA graph, then started as a whole.

A network of small convolutions asks more of the processor that starts them than of the GPU. A graph
starts all of them at once. It is bound to the shape of its input and to its memory; graphs of one
:class:`CapturedStep` share what they need between input and output.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

CAPTURE_AT = 2
"""Uses of a shape before it is captured, the last of them included; many shapes never come back."""
MOST_GRAPHS = 64
"""Shapes that are kept; eight levels of images of eight sizes."""
WARM_UPS = 2
"""Runs before a capture, in which libraries choose and allocate."""

Step = Callable[[Tensor], Tensor]

_state = threading.local()


class CapturedStep:
    """A function of one tensor that is replayed where the tensor's shape is known from before.

    Where it cannot be captured, one warning says so, and it runs as it is from then on. Several
    threads may call it; one at a time is served.

    Args:
        step: from a tensor to a tensor whose shape depends on that of the first alone. It must not
            wait for the GPU, and what it reads beside its input must last as long as this: weights,
            or constants that nothing drops.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._forget()

    def __call__(self, values: Tensor) -> Tensor:
        """Return what the step gives, as a tensor of its own."""
        if values.device.type != "cuda" or not self._can_capture:
            return self._step(values)
        key = (tuple(values.shape), values.dtype, str(values.device))
        with self._lock:
            graph = self._graphs.get(key) or self._captured(key, values)
            if graph is None:
                return self._step(values)
            self._graphs.move_to_end(key)
            return graph(values)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the graphs, which belong to this process."""
        return {"_step": self._step}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_step"])  # type: ignore[misc]

    def _forget(self) -> None:
        self._graphs: OrderedDict[Any, Step] = OrderedDict()
        self._uses: OrderedDict[Any, int] = OrderedDict()
        self._lock = threading.Lock()
        self._pool: list[Any] = []
        self._can_capture = True

    def _captured(self, key: Any, values: Tensor) -> Step | None:
        """Return a graph for a shape that is used often enough, if it can be captured."""
        self._uses[key] = self._uses.pop(key, 0) + 1
        if len(self._uses) > MOST_GRAPHS:
            self._uses.popitem(last=False)
        if self._uses[key] < CAPTURE_AT:
            return None
        try:
            graph = capture(self._step, values, self._pool)
        except (RuntimeError, AssertionError) as error:  # the latter of a torch without CUDA
            reason = str(error).strip().split("\n")[0]
            logger.warning("CUDA graphs are not used, as one cannot be captured: %s", reason)
            self._can_capture = False
            self._graphs.clear()
            return None
        self._graphs[key] = graph
        if len(self._graphs) > MOST_GRAPHS:
            self._graphs.popitem(last=False)
        return graph


@contextmanager
def capturing() -> Iterator[None]:
    """Let :func:`is_capturing` say so on this thread."""
    _state.is_capturing = True
    try:
        yield
    finally:
        _state.is_capturing = False


def is_capturing() -> bool:
    """Say whether this thread captures a graph: what it reads now must never be dropped."""
    return getattr(_state, "is_capturing", False)


def capture(step: Step, example: Tensor, pool: list[Any]) -> Step:
    """Return a function that replays a step as a CUDA graph, for tensors of the example's shape.

    Args:
        step: as for :class:`CapturedStep`.
        example: on the GPU.
        pool: of memory that graphs share, which are replayed one after the other; empty before the
            first.

    Raises:
        RuntimeError: the step waits, or the GPU is out of memory.
    """
    given = example.clone()
    current = torch.cuda.current_stream(given.device)
    beside = torch.cuda.Stream(given.device)  # type: ignore[no-untyped-call]
    beside.wait_stream(current)
    with torch.cuda.stream(beside):
        for _ in range(WARM_UPS):
            step(given)
    current.wait_stream(beside)
    if not pool:
        pool.append(torch.cuda.graph_pool_handle())
    graph = torch.cuda.CUDAGraph()
    # other threads may use the GPU meanwhile
    with capturing(), torch.cuda.graph(graph, pool=pool[0], capture_error_mode="thread_local"):
        result = step(given)

    def replay(values: Tensor) -> Tensor:
        given.copy_(values)
        graph.replay()
        return result.clone()

    return replay
