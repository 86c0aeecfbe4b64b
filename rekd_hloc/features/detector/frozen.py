"""The trained network baked into plain convolutions, with batch normalisation folded in.

This is what inference runs: it needs neither e2cnn nor the steerable basis, and equals the
steerable form to rounding.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rekd_hloc.features.precision import rounds_to_tf32

NORM_EPS = 1e-5
"""Added to the variance in batch normalisation: torch's default, which e2cnn keeps."""

CPU_TILE_ROWS = 128
"""Height of the strips on a CPU: their buffers are used again, not mapped anew, and the run
takes a fifth less time (C8 and C16, 1024x768). A GPU is filled better by the whole."""
AUTO_TILE_ROWS = -1

CHANNEL_BLOCK = 16
"""oneDNN sums in an order that depends on the number of threads where a 1x1 convolution gives no
multiple of so many channels (AVX-512)."""

HALO_PX = 6
"""Reach of three 5x5 convolutions: a strip with this margin gives exactly the whole's values."""


class FrozenBackbone(nn.Module):
    """Three 5x5 convolutions with ReLU, a group max-pool and the 1x1 orientation convolution.

    Channels are ordered field by field, and within a field by group element.

    Args:
        group_order: rotations N of the cyclic group.
        fields: regular fields d1, d2, d3 after each block; each is N channels.
        tile_rows: run in strips of this many rows, 0 for all at once; the result is the same.
            -1 takes strips on a CPU and the whole on a GPU.
    """

    def __init__(
        self,
        *,
        group_order: int,
        fields: tuple[int, int, int],
        tile_rows: int = AUTO_TILE_ROWS,
    ) -> None:
        super().__init__()
        widths = [1, *(count * group_order for count in fields)]
        self.blocks = nn.ModuleList(
            nn.Conv2d(src, dst, 5, padding=2)
            for src, dst in zip(widths[:-1], widths[1:], strict=True)
        )
        self.orientation = nn.Conv2d(widths[-1], group_order, 1, bias=False)
        self.group_order = group_order
        self.tile_rows = tile_rows
        # a quarter faster on a CPU, with nothing lost
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def set_block(
        self,
        index: int,
        kernel: Float[Tensor, "out in side side"],
        norm: Mapping[str, Float[Tensor, " field"]],
    ) -> None:
        """Give a block its filter, with the batch normalisation after it folded in.

        Args:
            index: 0, 1 or 2.
            kernel: the convolution alone.
            norm: ``weight``, ``bias``, ``running_mean``, ``running_var``, one value for each field.
        """
        gain = norm["weight"] / torch.sqrt(norm["running_var"] + NORM_EPS)
        offset = norm["bias"] - norm["running_mean"] * gain
        gain, offset = (x.repeat_interleave(self.group_order) for x in (gain, offset))
        block = self.blocks[index]
        assert isinstance(block, nn.Conv2d)
        assert block.bias is not None
        block.weight.copy_(kernel * gain[:, None, None, None])
        block.bias.copy_(offset)

    def forward(
        self, image: Float[Tensor, "batch 1 height width"]
    ) -> tuple[Float[Tensor, "batch field height width"], Float[Tensor, "batch bin height width"]]:
        """Group-pooled features and orientation logits, both of the image's size."""
        return run_in_strips(self._run, image, self.tile_rows)

    def _run(self, image: Tensor) -> tuple[Tensor, Tensor]:
        layout = _fastest_layout(image.device)
        hidden = image.contiguous(memory_format=layout)
        for block in self.blocks:
            hidden = F.relu(_convolve(block, hidden, layout), inplace=True)
        batch, channels, height, width = hidden.shape
        by_field = hidden.view(batch, channels // self.group_order, self.group_order, height, width)
        multiple = CHANNEL_BLOCK if image.device.type == "cpu" else 1
        logits = _convolve(self.orientation, hidden, layout, multiple=multiple)
        return by_field.amax(dim=2), logits[:, : self.group_order]


def run_in_strips(
    run: Callable[[Tensor], tuple[Tensor, Tensor]],
    image: Float[Tensor, "batch 1 height width"],
    tile_rows: int,
) -> tuple[Float[Tensor, "batch field height width"], Float[Tensor, "batch bin height width"]]:
    """Compute the layers of a backbone in strips of an image; the result is that of the whole.

    Args:
        run: the layers.
        image: whole, or a part.
        tile_rows: height of the strips, as for :class:`FrozenBackbone`.
    """
    height, rows = image.shape[2], tile_rows
    if rows == AUTO_TILE_ROWS:
        rows = CPU_TILE_ROWS if image.device.type == "cpu" else 0
    if rows == 0 or height <= rows:
        return run(image)
    strips = [_run_strip(run, image, top, rows) for top in range(0, height, rows)]
    features, logits = zip(*strips, strict=True)
    return torch.cat(features, dim=2), torch.cat(logits, dim=2)


def _run_strip(
    run: Callable[[Tensor], tuple[Tensor, Tensor]], image: Tensor, top: int, tile_rows: int
) -> tuple[Tensor, Tensor]:
    bottom = min(top + tile_rows, image.shape[2])
    first, last = max(top - HALO_PX, 0), min(bottom + HALO_PX, image.shape[2])
    features, logits = run(image[:, :, first:last])
    rows = slice(top - first, bottom - first)
    return features[:, :, rows], logits[:, :, rows]


def _fastest_layout(device: torch.device) -> torch.memory_format:
    """A GPU takes a third less time for 8 rotations with whole channels, unless it rounds."""
    if device.type == "cuda" and not rounds_to_tf32():
        return torch.contiguous_format
    return torch.channels_last


def _convolve(
    convolution: nn.Module, hidden: Tensor, layout: torch.memory_format, *, multiple: int = 1
) -> Tensor:
    """The layer on what is in that layout; torch would follow the layout of the weights.

    A layer without bias may give a multiple of so many channels, the last of them zero.
    """
    assert isinstance(convolution, nn.Conv2d)
    weight = _in_layout(convolution, layout)
    lacking = -len(weight) % multiple
    if lacking > 0:
        weight = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, lacking)).contiguous(memory_format=layout)
    padding = convolution.kernel_size[0] // 2
    return F.conv2d(hidden, weight, convolution.bias, padding=padding)


def _in_layout(convolution: nn.Conv2d, layout: torch.memory_format) -> Tensor:
    """Return the weight in a layout, which it has from then on: no value changes."""
    if not convolution.weight.is_contiguous(memory_format=layout):
        with torch.inference_mode(mode=False), torch.no_grad():
            convolution.weight.data = convolution.weight.contiguous(memory_format=layout)
    return convolution.weight
