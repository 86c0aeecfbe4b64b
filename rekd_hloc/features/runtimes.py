"""Other runtimes for the convolutions on a CPU: ONNX Runtime and OpenVINO, each an extra.

A runtime takes the place of a network's layers, the backbone of a detector or the layers of a
HardNet. All around them stays, so that features differ from torch's by rounding only. The layers
are compiled where and when they are first called: a network can be sent to another process.
"""

import importlib
import io
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from rekd_hloc.features.detector.frozen import FrozenBackbone, run_in_strips
from rekd_hloc.features.detector.network import Rekd
from rekd_hloc.features.onnx_layers import encode_backbone, encode_layers

Run = Callable[[NDArray[np.float32]], list[NDArray[np.float32]]]
Network = TypeVar("Network", bound=nn.Module)

TORCH = "torch"
TELEMETRY = "openvino_telemetry"
"""Package that OpenVINO brings, and does without."""


class RuntimeLayers(nn.Module):
    """Layers that a runtime computes.

    Args:
        layers: what they are in torch; it stays beside them, to be compiled again elsewhere.
        runtime: a name of ``COMPILERS``.
    """

    def __init__(self, layers: nn.Module, runtime: str) -> None:
        super().__init__()
        self.layers = layers
        self.runtime = runtime
        self._run: Run | None = None

    def forward(self, values: Tensor) -> Any:  # noqa: ANN401  (a tensor, or the backbone's two)
        """Return what the layers give.

        Raises:
            ValueError: the values are not on the CPU.
        """
        if values.device.type != "cpu":
            raise ValueError(
                f"runtime {self.runtime} computes on a CPU, and the images are on "
                f"{values.device}; take the CPU, or runtime=torch"
            )
        if self._run is None:
            self._run = COMPILERS[self.runtime](encode(self.layers), torch.get_num_threads())
        results = [torch.from_numpy(part) for part in self._run(values.contiguous().numpy())]
        return results[0] if len(results) == 1 else tuple(results)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_run": None}


class RuntimeBackbone(nn.Module):
    """A detector's backbone that a runtime computes, in the strips of :class:`FrozenBackbone`.

    Args:
        backbone: what it is in torch.
        runtime: a name of ``COMPILERS``.
    """

    def __init__(self, backbone: FrozenBackbone, runtime: str) -> None:
        super().__init__()
        self.layers = RuntimeLayers(backbone, runtime)
        self.tile_rows = backbone.tile_rows

    def forward(
        self, image: Float[Tensor, "batch 1 height width"]
    ) -> tuple[Float[Tensor, "batch field height width"], Float[Tensor, "batch bin height width"]]:
        """Return group-pooled features and orientation logits, both of the image's size."""
        return run_in_strips(self.layers, image, self.tile_rows)


def compute_with(network: Network, runtime: str, device: torch.device) -> Network:
    """Let a runtime compute the layers of a network, from now on.

    Args:
        network: a detector's, or a HardNet of any width; it is changed.
        runtime: ``torch`` changes nothing.
        device: where the images will be.

    Raises:
        ImportError: the runtime is not installed; the message names the extra.
        ValueError: it cannot compute this network, or not on that device.
    """
    if runtime == TORCH:
        return network
    if device.type != "cpu":
        raise ValueError(
            f"runtime {runtime} computes on a CPU, and the device is {device}; "
            "give device cpu (--device cpu), or runtime=torch"
        )
    _import("onnx", runtime)
    IMPORTS[runtime]()
    if isinstance(network, Rekd) and isinstance(network.backbone, FrozenBackbone):
        network.backbone = RuntimeBackbone(network.backbone, runtime)
        return network
    layers = getattr(network, "features", None)
    if not isinstance(layers, nn.Sequential):
        raise ValueError(_not_for(network, runtime))
    try:
        encode_layers(layers)
    except ValueError as error:
        raise ValueError(f"{_not_for(network, runtime)}: {error}") from error
    network.features = RuntimeLayers(layers, runtime)
    return network


def encode(layers: nn.Module) -> bytes:
    """Return layers as an ONNX graph.

    Raises:
        ValueError: a layer is of another kind than those of the detectors and of HardNet.
    """
    if isinstance(layers, FrozenBackbone):
        return encode_backbone(layers)
    return encode_layers(layers)


def _not_for(network: nn.Module, runtime: str) -> str:
    return (
        f"runtime {runtime} computes the detectors and HardNet, not {type(network).__name__}; "
        "take runtime=torch"
    )


def _compile_for_onnxruntime(graph: bytes, num_threads: int) -> Run:
    package = IMPORTS["onnx"]()
    options = package.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others need the core
    session = package.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def run(values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        results: list[NDArray[np.float32]] = session.run(None, {given.name: values})
        return results

    return run


def _compile_for_openvino(graph: bytes, num_threads: int) -> Run:
    core = _import_openvino().Core()
    model = core.read_model(io.BytesIO(graph))
    options = {
        "INFERENCE_PRECISION_HINT": "f32",  # by itself it takes bfloat16 where that is fast
        "INFERENCE_NUM_THREADS": num_threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(model, "CPU", options)
    of_thread = threading.local()  # a request serves one caller at a time

    def run(values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        if not hasattr(of_thread, "request"):
            of_thread.request = compiled.create_infer_request()
        results = of_thread.request.infer(values)
        return [np.array(results[number]) for number in range(len(compiled.outputs))]

    return run


def _import(package: str, runtime: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"runtime {runtime} needs {package}: pip install 'rekd-hloc[{runtime}]'"
        ) from error


def _import_openvino() -> ModuleType:
    """Import it without its telemetry, which would tell a server of each import.

    OpenVINO goes on without that package, and a program that has it already keeps it.
    """
    absent = TELEMETRY not in sys.modules
    if absent:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # what Python takes for missing
    try:
        return _import("openvino", "openvino")
    finally:
        if absent:
            del sys.modules[TELEMETRY]


COMPILERS: dict[str, Callable[[bytes, int], Run]] = {
    "onnx": _compile_for_onnxruntime,
    "openvino": _compile_for_openvino,
}
"""What compiles an ONNX graph for a number of threads, by the runtime's name."""
IMPORTS: dict[str, Callable[[], ModuleType]] = {
    "onnx": lambda: _import("onnxruntime", "onnx"),
    "openvino": _import_openvino,
}
"""What imports a runtime, or says which extra brings it."""
