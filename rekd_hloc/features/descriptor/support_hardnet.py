"""HardNet that sees its keypoint in squares of several sizes, one channel for each.

The squares share centre and angle. The larger one shows what surrounds a repeated detail, and only
the first layer computes more. Each channel has its own normalisation, so that a bright sky in the
large square leaves the small one as it is.
"""

from collections.abc import Sequence

import kornia.feature
import torch
from jaxtyping import Float
from torch import Tensor, nn

ONE_SUPPORT = (1.0,)
"""What a network sees that says nothing else: the square of side ``patch_size_px``."""
FIRST_LAYER = "features.0.weight"
"""Tensor of the first convolution, by which files of one and of several channels differ."""


class SupportHardNet(nn.Module):
    """128 numbers of length 1 from patches of several supports; kornia's HardNet but for its input.

    Args:
        supports: factors on the patch's side, one for each channel.
    """

    def __init__(self, *, supports: Sequence[float]) -> None:
        super().__init__()
        self.supports = tuple(float(factor) for factor in supports)
        self.features: nn.Sequential = kornia.feature.HardNet(pretrained=False).features
        first = self.features[0]
        assert isinstance(first, nn.Conv2d)
        self.features[0] = nn.Conv2d(
            len(self.supports), first.out_channels, kernel_size=3, padding=1, bias=False
        )

    def forward(self, patches: Float[Tensor, "patch support 32 32"]) -> Float[Tensor, "patch 128"]:
        """Return descriptors of unit length."""
        deviation, mean = torch.std_mean(patches, dim=(2, 3), keepdim=True)
        standard = (patches - mean) / (deviation + 1e-6)
        if patches.device.type == "cpu":  # where it is faster, as kornia found
            standard = standard.to(memory_format=torch.channels_last)
        return nn.functional.normalize(self.features(standard).flatten(1), dim=1)


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
