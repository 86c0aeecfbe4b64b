"""The trainable backbone: steerable convolutions of e2cnn (Weiler & Cesa, NeurIPS 2019).

Three blocks of C_N-equivariant 5x5 convolution, inner batch normalisation and ReLU, then a group
max-pool for the score and an equivariant 1x1 convolution to one regular field for the orientation
(Lee et al., CVPR 2022, section 3.1). Turning the input counter-clockwise on the screen by 360/N
degrees rolls the orientation logits by +1. Only training and conversion need this module; e2cnn is
imported when a backbone is built.
"""

import contextlib
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from rekd_hloc.features.detector.frozen import FrozenBackbone


class SteerableBackbone(nn.Module):
    """The same maps as :class:`FrozenBackbone`, from steerable filters that can be trained.

    Args:
        group_order: rotations N of the cyclic group, a multiple of 4.
        fields: regular fields d1, d2, d3 after each block (paper: 2, 2, 2).
        initialise: draw He-initialised weights; leave it off when weights are loaded next.

    Raises:
        ImportError: e2cnn is not installed.
    """

    def __init__(
        self, *, group_order: int, fields: tuple[int, int, int], initialise: bool = True
    ) -> None:
        super().__init__()
        enn = _import_e2cnn()
        from e2cnn import gspaces

        space = gspaces.Rot2dOnR2(N=group_order)
        grey = enn.FieldType(space, [space.trivial_repr])
        types = [grey, *(enn.FieldType(space, count * [space.regular_repr]) for count in fields)]
        histogram = enn.FieldType(space, [space.regular_repr])
        with _fast_basis_construction():
            self.convolutions = nn.ModuleList(
                enn.R2Conv(src, dst, kernel_size=5, padding=2, bias=False, initialize=initialise)
                for src, dst in zip(types[:-1], types[1:], strict=True)
            )
            self.orientation = enn.R2Conv(
                types[-1], histogram, kernel_size=1, bias=False, initialize=initialise
            )
        self.norms = nn.ModuleList(enn.InnerBatchNorm(kind) for kind in types[1:])
        self.activations = nn.ModuleList(enn.ReLU(kind) for kind in types[1:])
        self.group_pool = enn.GroupPooling(types[-1])
        self.input_type = grey
        self.group_order = group_order
        self.fields = fields

    def forward(
        self, image: Float[Tensor, "batch 1 height width"]
    ) -> tuple[Float[Tensor, "batch field height width"], Float[Tensor, "batch bin height width"]]:
        """Group-pooled features and orientation logits, both of the image's size."""
        hidden = _import_e2cnn().GeometricTensor(image, self.input_type)
        for convolution, norm, activation in zip(
            self.convolutions, self.norms, self.activations, strict=True
        ):
            hidden = activation(norm(convolution(hidden)))
        return self.group_pool(hidden).tensor, self.orientation(hidden).tensor

    def learned_state(self) -> dict[str, Tensor]:
        """Weights and batch statistics, without the buffers that e2cnn derives (50 MB at N=36)."""
        return {name: tensor.detach().clone() for name, tensor in self._live_tensors().items()}

    @torch.no_grad()
    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        """Put back what :meth:`learned_state` gave.

        Raises:
            ValueError: a name is missing or a shape differs (another group order or field count).
        """
        live = self._live_tensors()
        if set(live) != set(state):
            odd = sorted(set(live) ^ set(state))
            raise ValueError(f"backbone weights do not fit: missing or unknown {odd}")
        for name, tensor in state.items():
            if live[name].shape != tensor.shape:
                raise ValueError(
                    f"backbone weight {name} has shape {tuple(tensor.shape)}, this network "
                    f"(group_order {self.group_order}, fields {self.fields}) needs "
                    f"{tuple(live[name].shape)}"
                )
        for name, tensor in state.items():
            live[name].copy_(tensor)
        if not self.training:
            self.train().eval()  # e2cnn keeps eval mode's expanded filter until train() is called

    @torch.no_grad()
    def bake(self) -> FrozenBackbone:
        """Return the same function as plain convolutions with batch normalisation folded in."""
        frozen = FrozenBackbone(group_order=self.group_order, fields=self.fields)
        for index, (convolution, norm) in enumerate(
            zip(self.convolutions, self.norms, strict=True)
        ):
            kernel = expand_filter(convolution)
            frozen.set_block(index, kernel, _norm_state(_inner_norm(norm)))
        frozen.orientation.weight.copy_(expand_filter(self.orientation))
        return frozen.eval()

    def _live_tensors(self) -> dict[str, Tensor]:
        convolutions: list[Any] = list(self.convolutions)
        state: dict[str, Tensor] = {
            f"convolutions.{i}": convolution.weights for i, convolution in enumerate(convolutions)
        }
        state["orientation"] = self.orientation.weights
        for i, norm in enumerate(self.norms):
            for name, tensor in _norm_state(_inner_norm(norm)).items():
                state[f"norms.{i}.{name}"] = tensor
        return state


def expand_filter(convolution: Any) -> Tensor:  # noqa: ANN401  (e2cnn has no types)
    """Expand the kernel (out, in, side, side) of an e2cnn ``R2Conv`` with its present weights."""
    filters: Tensor = convolution.basisexpansion(convolution.weights)
    kind_in, kind_out = convolution.in_type.size, convolution.out_type.size
    side = convolution.kernel_size
    kernel: Tensor = filters.reshape(kind_out, kind_in, side, side)
    return kernel


def _inner_norm(norm: Any) -> nn.BatchNorm3d:  # noqa: ANN401
    # InnerBatchNorm keeps one BatchNorm3d for each field size; ours has one size only
    (inner,) = [m for m in norm.modules() if isinstance(m, nn.BatchNorm3d)]
    return inner


def _norm_state(norm: nn.BatchNorm3d) -> dict[str, Tensor]:
    names = ("weight", "bias", "running_mean", "running_var")
    return {name: getattr(norm, name) for name in names}


def _import_e2cnn() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            import e2cnn.nn
    except ImportError as error:
        raise ImportError(
            "training and weight conversion need e2cnn: pip install 'rekd-hloc[train]'"
        ) from error
    module: ModuleType = e2cnn.nn
    return module


@contextlib.contextmanager
def _fast_basis_construction() -> Iterator[None]:
    """Let e2cnn choose the order of its large einsum: at N = 36, 0.5 s instead of 8.4 s.

    Same basis to 7e-18. e2cnn's module sees a stand-in for numpy that differs in this one call.
    """
    from e2cnn.kernels import steerable_basis

    class _Numpy:
        def __getattr__(self, name: str) -> object:
            return getattr(np, name)

        @staticmethod
        def einsum(*operands: Any, **options: Any) -> object:  # noqa: ANN401
            return np.einsum(*operands, optimize=True, **options)

    original = steerable_basis.np
    steerable_basis.np = _Numpy()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "indexing with dtype torch.uint8", UserWarning)
            yield
    finally:
        steerable_basis.np = original
