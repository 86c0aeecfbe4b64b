"""What a training of the descriptor begins with: random or given weights, and a teacher."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kornia.feature
import torch
from torch import nn

from rekd_hloc.features.descriptor.hardnet import load_hardnet, read_hardnet
from rekd_hloc.features.descriptor.support_hardnet import (
    FIRST_LAYER,
    FULL_WIDTH,
    ONE_SUPPORT,
    SupportHardNet,
    supports_of,
    with_supports,
)
from training.common.checkpoint import LAST, load_checkpoint
from training.descriptor_config import TrainDescriptorConfig

Tensors = dict[str, torch.Tensor]


def build_hardnet(
    seed: int,
    dropout: float = 0.3,
    supports: Sequence[float] = ONE_SUPPORT,
    width: int = FULL_WIDTH,
) -> nn.Module:
    """Build HardNet with orthogonal filters (the paper's start), drawn from the seed alone."""
    network: nn.Module = kornia.feature.HardNet(pretrained=False)
    if len(supports) > 1 or width != FULL_WIDTH:
        network = SupportHardNet(supports=supports, width=width)
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.orthogonal_(layer.weight, gain=0.6, generator=generator)
        elif isinstance(layer, nn.Dropout):
            layer.p = dropout
        elif isinstance(layer, nn.ReLU):
            layer.inplace = True
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def load_teacher(config: TrainDescriptorConfig, device: torch.device) -> nn.Module | None:
    """Load the network whose descriptors are repeated, None if there is none.

    Raises:
        FileNotFoundError: there are no such weights.
        ValueError: it sees other supports than the tracks have.
    """
    if not config.teacher:
        return None
    teacher = load_hardnet(config.teacher)
    if supports_of(teacher) != tuple(config.tracks.supports):
        raise ValueError(
            f"teacher={config.teacher} sees supports {list(supports_of(teacher))}, the tracks have "
            f"{list(config.tracks.supports)}: set tracks.supports to the teacher's"
        )
    return teacher.to(device)


def read_start(config: TrainDescriptorConfig) -> Tensors | None:
    """Read the weights that a run begins with.

    Returns:
        None if the run goes on from its checkpoint, or starts from random weights.

    Raises:
        FileNotFoundError: ``init`` names neither weights nor a file.
        ValueError: the file holds no HardNet, or one of more supports than ``tracks.supports``.
    """
    if not config.init or (Path(config.output) / LAST).exists():
        return None
    if Path(config.init).suffix != ".pt":
        tensors = read_hardnet(config.init)
    else:
        tensors = validated_tensors(load_checkpoint(Path(config.init)))
        if tensors.keys() != build_hardnet(0).state_dict().keys():
            raise ValueError(f"{config.init} is no checkpoint of training.train_descriptor")
    try:
        if len(tensors[FIRST_LAYER]) != config.width:
            raise ValueError(
                f"its first layer has {len(tensors[FIRST_LAYER])} channels, and width is "
                f"{config.width}: set width to that"
            )
        return with_supports(tensors, len(config.tracks.supports))
    except ValueError as error:
        raise ValueError(f"init={config.init}: {error}") from error


def validated_tensors(state: dict[str, Any]) -> Tensors:
    """Return the weights of a checkpoint that were validated: the average, where it holds one."""
    tensors: Tensors = state.get("average", state.get("network", {}))
    return tensors
