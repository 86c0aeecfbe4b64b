"""Keypoints with their descriptors, and what the descriptor network says beside the descriptor."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rekd_hloc.config import DescriptorConfig
from rekd_hloc.features.descriptor.hardnet import describe
from rekd_hloc.features.descriptor.patches import cut_patches
from rekd_hloc.features.descriptor.support_hardnet import supports_of
from rekd_hloc.types import Index, Keypoints

PATCHES = 1 << 16
"""Patches in memory at once: 256 MiB."""


@dataclass(frozen=True, eq=False)
class Described:
    """Keypoints of one image, described.

    Attributes:
        keypoints: in pixels of the image that was described.
        descriptors: one row of length 1 for each.
        length: of each row before it was brought to length 1; 1 where the network does not say.
    """

    keypoints: Keypoints
    descriptors: Float[Tensor, "keypoint channel"]
    length: Float[Tensor, " keypoint"]

    def __len__(self) -> int:
        return len(self.keypoints)

    def __getitem__(self, index: Index) -> Self:
        """Return the keypoints that an integer or boolean index tensor selects."""
        return replace(
            self,
            keypoints=self.keypoints[index],
            descriptors=self.descriptors[index],
            length=self.length[index],
        )


def describe_keypoints(
    network: nn.Module,
    image: Float[Tensor, "height width"],
    keypoints: Keypoints,
    config: DescriptorConfig,
    device: torch.device,
) -> Described:
    """Cut patches and describe them; few patches are there at once.

    Args:
        network: of descriptors, on ``device``.
        image: grey values, on the device of the keypoints.
        keypoints: in pixels of the image.
        config: how patches are cut.
        device: of the network.

    Returns:
        Descriptors and lengths on the CPU.
    """
    parts = []
    with record_lengths(network) as lengths:
        for first in range(0, max(len(keypoints), 1), PATCHES):
            patches = cut_patches(
                image,
                keypoints[torch.arange(first, min(first + PATCHES, len(keypoints)))],
                patch_size_px=config.patch_size_px,
                oriented=config.oriented,
                antialias=config.antialias,
                supports=supports_of(network),
            )
            described_part = describe(
                network, patches.to(device), config.batch_size, autocast=config.autocast
            )
            parts.append(described_part.cpu())
    described = torch.cat(parts)
    length = torch.cat(lengths)[: len(described)] if lengths else described.new_ones(len(described))
    return Described(keypoints, described, length)


@contextmanager
def record_lengths(network: nn.Module, *, wanted: bool = True) -> Iterator[list[Tensor]]:
    """Collect the lengths of what the layers of a HardNet give, before it is brought to 1."""
    lengths: list[Tensor] = []
    layers = getattr(network, "features", None)
    if not wanted or not isinstance(layers, nn.Module):
        yield lengths
        return

    caller = threading.get_ident()

    def record(_: nn.Module, __: object, rows: Tensor) -> None:
        if threading.get_ident() == caller:  # others describe with the same network meanwhile
            lengths.append(rows.detach().float().flatten(1).norm(dim=1).cpu())

    handle = layers.register_forward_hook(record)
    try:
        yield lengths
    finally:
        handle.remove()
