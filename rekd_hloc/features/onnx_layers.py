"""Stacks of convolutions as ONNX graphs, written step by step: ready in milliseconds.

torch's own exporter takes seconds for the same; it serves :mod:`onnx_graphs`, whose graphs hold all
of a network. Here are the convolutions alone, for a runtime that takes their place.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor, nn

from rekd_hloc.features.detector.frozen import FrozenBackbone

OPSET = 18
"""Version of the operators."""
IR_VERSION = 9
"""Version of the file's form that belongs to it; newer packages write a newer one by default."""


def encode_layers(layers: nn.Module) -> bytes:
    """Return a stack of convolutions and ReLUs as a graph from (batch, channel, row, column).

    Raises:
        ValueError: a layer is of another kind; the message names it.
    """
    graph = _GraphWriter()
    output = graph.stack("input", layers.children())
    return graph.encode([output])


def encode_backbone(backbone: FrozenBackbone) -> bytes:
    """Return a detector's backbone as a graph from an image to features and logits."""
    graph = _GraphWriter()
    hidden = "input"
    for block in backbone.blocks:
        hidden = graph.stack(hidden, [block, nn.ReLU()])
    order = backbone.group_order
    num_fields = backbone.orientation.in_channels // order
    fields = [graph.name() for _ in range(num_fields)]
    sizes = graph.constant(np.full(num_fields, order, np.int64))
    graph.add("Split", [hidden, sizes], fields, axis=1)
    axis = graph.constant(np.array([1], np.int64))
    pooled = [graph.step("ReduceMax", [field, axis], keepdims=1) for field in fields]
    features = graph.step("Concat", pooled, axis=1)
    return graph.encode([features, graph.stack(hidden, [backbone.orientation])])


class _GraphWriter:
    """Adds one step after the other; each result has a name."""

    def __init__(self) -> None:
        import onnx

        self._onnx: Any = onnx
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._num_names = 0

    def name(self) -> str:
        """Return a name that is not taken."""
        self._num_names += 1
        return f"value{self._num_names}"

    def constant(self, values: np.ndarray) -> str:
        """Add an array."""
        name = self.name()
        self._constants.append(self._onnx.numpy_helper.from_array(values, name))
        return name

    def add(self, operator: str, inputs: list[str], outputs: list[str], **options: Any) -> None:  # noqa: ANN401
        """Add a step with named results."""
        self._nodes.append(self._onnx.helper.make_node(operator, inputs, outputs, **options))

    def step(self, operator: str, inputs: list[str], **options: Any) -> str:  # noqa: ANN401
        """Add a step with one result."""
        output = self.name()
        self.add(operator, inputs, [output], **options)
        return output

    def stack(self, hidden: str, layers: Iterable[nn.Module]) -> str:
        """Add layers, the next upon the one before."""
        for layer in layers:
            if isinstance(layer, nn.ReLU):
                hidden = self.step("Relu", [hidden])
            elif isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros":
                hidden = self._convolve(hidden, layer)
            else:
                raise ValueError(f"a layer is {type(layer).__name__}, not Conv2d or ReLU")
        return hidden

    def encode(self, outputs: list[str]) -> bytes:
        """Return the graph from ``input`` to these results; all sizes are free."""
        helper, kind = self._onnx.helper, self._onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            self._nodes,
            "layers",
            [helper.make_tensor_value_info("input", kind, [None] * 4)],
            [helper.make_tensor_value_info(name, kind, [None] * 4) for name in outputs],
            self._constants,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        data: bytes = model.SerializeToString()
        return data

    def _convolve(self, hidden: str, layer: nn.Conv2d) -> str:
        weights = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
        assert isinstance(layer.padding, tuple)
        return self.step(
            "Conv",
            [hidden, *(self.constant(_array(weight)) for weight in weights)],
            kernel_shape=list(layer.kernel_size),
            strides=list(layer.stride),
            pads=[*layer.padding, *layer.padding],
            dilations=list(layer.dilation),
            group=layer.groups,
        )


def _array(weight: Tensor) -> np.ndarray:
    return np.ascontiguousarray(weight.detach().cpu().numpy())
