"""HardNet of any width that sees its keypoint in squares of several sizes, a channel for each.

The squares share centre and angle. The larger one shows what surrounds a repeated detail, and only
the first layer computes more. Each channel has its own normalisation, so that a bright sky in the
large square leaves the small one as it is. Half the width is a quarter of the work.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

ONE_SUPPORT = (1.0,)
"""What a network sees that says nothing else: the square of side ``patch_size_px``."""
FIRST_LAYER = "features.0.weight"
"""Tensor of the first convolution, by which files of several channels and widths differ."""
FULL_WIDTH = 32
"""Channels of the paper's first layer; the others have as many, two and four times as many."""
DESCRIPTOR_SIZE = 128


class SupportHardNet(nn.Module):
    """128 numbers of length 1 from patches of several supports; its tensors are named as kornia's.

    Args:
        supports: factors on the patch's side, one for each channel.
        width: channels of the first layer; 32 is the paper's network.
    """

    def __init__(self, *, supports: Sequence[float], width: int = FULL_WIDTH) -> None:
        super().__init__()
        self.supports = tuple(float(factor) for factor in supports)
        self.width = width
        self.features = _make_layers(len(self.supports), width)

    def forward(self, patches: Float[Tensor, "patch support 32 32"]) -> Float[Tensor, "patch 128"]:
        """Return descriptors of unit length."""
        deviation, mean = torch.std_mean(patches, dim=(2, 3), keepdim=True)
        standard = (patches - mean) / (deviation + 1e-6)
        if patches.device.type == "cpu":  # where it is faster, as kornia found
            standard = standard.to(memory_format=torch.channels_last)
        return nn.functional.normalize(self.features(standard).flatten(1), dim=1)


def _make_layers(num_supports: int, width: int) -> nn.Sequential:
    """Return the convolutions of the paper's table 1; two of them halve the patch's side."""
    layers: list[nn.Module] = []
    channels = num_supports
    for factor, stride in ((1, 1), (1, 1), (2, 2), (2, 1), (4, 2), (4, 1)):
        convolution = nn.Conv2d(channels, factor * width, 3, stride, padding=1, bias=False)
        channels = factor * width
        layers += [convolution, nn.BatchNorm2d(channels, affine=False), nn.ReLU()]
    last = nn.Conv2d(channels, DESCRIPTOR_SIZE, 8, bias=False)
    normalisation = nn.BatchNorm2d(DESCRIPTOR_SIZE, affine=False)
    return nn.Sequential(*layers, nn.Dropout(0.3), last, normalisation)


def supports_of(network: nn.Module) -> tuple[float, ...]:
    """Return the supports that a descriptor network asks for, ``(1.0,)`` if it does not say."""
    return tuple(getattr(network, "supports", ONE_SUPPORT))


def with_supports(tensors: dict[str, Tensor], num_supports: int) -> dict[str, Tensor]:
    """Return a HardNet's tensors for more supports: zero weights for those that it has not seen.

    The network then describes as it did before, until it is trained on.

    Raises:
        ValueError: the network has more supports than asked for.
    """
    first = tensors[FIRST_LAYER]
    lacking = num_supports - first.shape[1]
    if lacking < 0:
        raise ValueError(
            f"the weights are of a HardNet with {first.shape[1]} supports, and {num_supports} are "
            "asked for: name as many in tracks.supports"
        )
    added = first.new_zeros(first.shape[0], lacking, *first.shape[2:])
    return {**tensors, FIRST_LAYER: torch.cat([first, added], dim=1)}
