"""Networks as ONNX graphs, for programs without torch: score map, orientation logits, descriptor.

A graph takes images, or patches, of any size and holds all that its network does, the normalisation
too. What stands around the networks (pyramid, maxima, patches) is the caller's. Each graph is run
and compared with torch before it is written.
"""

import importlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rekd_hloc import __version__
from rekd_hloc.config import ExtractConfig
from rekd_hloc.features.descriptor.hardnet import load_hardnet, resolve_hardnet, unit_rows
from rekd_hloc.features.descriptor.patches import PATCH_PX
from rekd_hloc.features.descriptor.support_hardnet import supports_of
from rekd_hloc.features.detector.network import Rekd
from rekd_hloc.features.weights import load_detector, resolve_weights
from rekd_hloc.ownership import ONNX, refuse_kind, replace_bytes
from rekd_hloc.progress import progress_bar
from rekd_hloc.weight_files import weights_hash

GRAPH_FORMAT = "rekd_hloc onnx 1"
TOLERANCE = 1e-4
"""Largest difference from torch, as a share of the largest value."""
TRACED_PX = (96, 131)
"""Size of the image that is traced; the graph takes any from 2 px up."""
CHECKED_PX = ((64, 64), (97, 150), (160, 90))
CHECKED_PATCHES = (1, 5)
"""Sizes and numbers at which a graph is compared with torch; none of them is traced."""


class ScoreGraph(nn.Module):
    """The score map of an image."""

    def __init__(self, network: Rekd) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, image: Float[Tensor, "1 1 height width"]
    ) -> Float[Tensor, "1 1 height width"]:
        """Return scores that are not negative; see :meth:`Rekd.forward`."""
        score: Tensor = self.network(image)[0]
        return score


class OrientationGraph(nn.Module):
    """The logits of the orientation histogram at each pixel of an image."""

    def __init__(self, network: Rekd) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, image: Float[Tensor, "1 1 height width"]
    ) -> Float[Tensor, "1 bin height width"]:
        """Return logits; see :meth:`Rekd.forward`."""
        logits: Tensor = self.network(image)[1]
        return logits


class DescriptorGraph(nn.Module):
    """Descriptors of unit length from patches."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, patches: Float[Tensor, "patch support 32 32"]
    ) -> Float[Tensor, "patch channel"]:
        """Return what :func:`~rekd_hloc.features.descriptor.hardnet.describe` does."""
        return unit_rows(self.network(patches))


@dataclass(frozen=True)
class Graph:
    """What becomes one file.

    Attributes:
        name: of the file, without its ending, and of the output.
        module: computes it.
        examples: inputs; the first is traced, the others are compared.
        input_name: of the input.
        dynamic: names of the input's axes that have any length, by their number.
        metadata: written into the file.
    """

    name: str
    module: nn.Module
    examples: list[Tensor]
    input_name: str
    dynamic: Mapping[int, str]
    metadata: Mapping[str, object]


def export_onnx(
    config: ExtractConfig, folder: Path, *, overwrite: bool = False, progress: bool = False
) -> dict[str, float]:
    """Write the networks of a preset as ``score.onnx``, ``orientation.onnx``, ``descriptor.onnx``.

    Args:
        config: the preset.
        folder: to write into; it is made.
        overwrite: replace other files of these names.
        progress: show a bar.

    Returns:
        The largest difference from torch for each file's path, as a share of the largest value.

    Raises:
        ImportError: the extra ``onnx`` is not installed, or torch is too old.
        FileNotFoundError: the configuration names weights that are not there.
        FileExistsError: other files of these names are there, and ``overwrite`` is off.
        RuntimeError: a graph does not give what torch does.
        OSError: a file cannot be written.
    """
    _require_exporter()
    graphs = _graphs_of(config)
    paths = {graph.name: folder / f"{graph.name}.onnx" for graph in graphs}
    for path in paths.values():
        refuse_kind(path, ONNX)
    differences = {}
    for graph in progress_bar(graphs, "export", shown=progress):
        data = encode_graph(graph)
        difference = compare_with_torch(graph, data)
        if not difference <= TOLERANCE:
            raise RuntimeError(
                f"{graph.name}.onnx differs from torch by {difference:.1e} of the largest value, "
                f"allowed are {TOLERANCE:.0e}; it was not written"
            )
        path = paths[graph.name]
        replace_bytes(path, data, ONNX, overwrite=overwrite)
        differences[str(path)] = difference
    return differences


@torch.no_grad()
def encode_graph(graph: Graph) -> bytes:
    """Return the bytes of an ONNX file; equal weights give equal bytes."""
    shapes = dict.fromkeys(graph.dynamic, torch.export.Dim.DYNAMIC)
    with _quiet_torch():
        program = torch.export.export(
            graph.module, (graph.examples[0],), dynamic_shapes=(shapes,), strict=False
        )
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=[graph.input_name],
            output_names=[graph.name],
        )
    assert exported is not None
    model = exported.model_proto
    _leave_out_traces(model)
    for axis, name in graph.dynamic.items():
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
        model.graph.output[0].type.tensor_type.shape.dim[axis].dim_param = name
    metadata = {"format": GRAPH_FORMAT, "version": __version__, **graph.metadata}
    for key, value in sorted(metadata.items()):
        text = value if isinstance(value, str) else json.dumps(value)
        model.metadata_props.add(key=key, value=text)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@torch.no_grad()
def compare_with_torch(graph: Graph, data: bytes) -> float:
    """Run a file on the examples; return the largest difference, as a share of the largest value.

    Args:
        graph: what the file was made of.
        data: the file.
    """
    session = _import("onnxruntime").InferenceSession(data, providers=["CPUExecutionProvider"])
    worst = 0.0
    for example in graph.examples[1:]:
        expected = graph.module(example).numpy()
        (got,) = session.run(None, {graph.input_name: example.numpy()})
        if got.shape != expected.shape:
            return float("inf")
        largest = max(float(np.abs(expected).max()), 1e-6)
        worst = max(worst, float(np.abs(got - expected).max()) / largest)
    return worst


def _graphs_of(config: ExtractConfig) -> list[Graph]:
    weights = resolve_weights(config.weights)
    detector, architecture = load_detector(weights, tile_rows=0)
    descriptor = load_hardnet(config.descriptor.weights)
    supports = supports_of(descriptor)
    images = [_smooth(1, 1, *size) for size in (TRACED_PX, *CHECKED_PX)]
    sides = {2: "height", 3: "width"}
    of_detector = {"weights": weights_hash(weights)}
    of_descriptor = {
        "weights": weights_hash(resolve_hardnet(config.descriptor.weights)),
        "patch_size_px": config.descriptor.patch_size_px,
        "supports": list(supports),
        "oriented": config.descriptor.oriented,
    }
    patches = [_smooth(n, len(supports), PATCH_PX, PATCH_PX) for n in (3, *CHECKED_PATCHES)]
    of_bins = {**of_detector, "bins": architecture.group_order}
    return [
        Graph("score", ScoreGraph(detector), images, "image", sides, of_detector),
        Graph("orientation", OrientationGraph(detector), images, "image", sides, of_bins),
        Graph(
            "descriptor",
            DescriptorGraph(descriptor),
            patches,
            "patches",
            {0: "patch"},
            of_descriptor,
        ),
    ]


def _smooth(batch: int, channels: int, height: int, width: int) -> Tensor:
    """Grey values without pixel noise; the same for the same size."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, channels, height // 4 + 2, width // 4 + 2, generator=generator)
    return F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


def _leave_out_traces(model: Any) -> None:  # noqa: ANN401  (onnx carries no types)
    """Take out where in the sources each step comes from, and the names of lengths."""
    graph = model.graph
    del graph.value_info[:]
    for holder in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del holder.metadata_props[:]
        holder.doc_string = ""


def _require_exporter() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _import(name)
    if not hasattr(torch.export.Dim, "DYNAMIC"):
        raise ImportError(f"export to ONNX needs torch 2.6 or newer, this is {torch.__version__}")


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"export to ONNX needs {name}: pip install 'rekd-hloc[onnx]'") from error


@contextmanager
def _quiet_torch() -> Iterator[None]:
    """Keep back what torch says about itself: its own old calls, operators of torchvision."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
