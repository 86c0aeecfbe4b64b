"""Other descriptions of chosen keypoints: a second angle, no angle, an affine frame."""

from dataclasses import replace
from pathlib import Path

import kornia.feature
import torch
from jaxtyping import Float
from torch import Tensor, nn

from rekd_hloc.config import DescriptorConfig
from rekd_hloc.features.described import Described, describe_keypoints
from rekd_hloc.features.descriptor.hardnet import describe
from rekd_hloc.features.descriptor.patches import PATCH_PX
from rekd_hloc.features.detector.peak_shape import ShapedKeypoints
from rekd_hloc.features.tensor_files import load_tensors
from rekd_hloc.types import Features, Keypoints
from training.selection.choices import Order
from training.selection.scoring import Chosen

SECOND_SHARE = 0.8
"""Least height of a second peak, as a share of the first, that gives a second keypoint."""


def add_second_angles(
    candidates: Described,
    order: Order,
    grey: Float[Tensor, "height width"],
    network: nn.Module,
    config: DescriptorConfig,
) -> Chosen:
    """Give keypoints whose histogram has a high second peak a second keypoint, within the budget.

    Args:
        candidates: with shapes.
        order: of those chosen, the best first; the last give way to second keypoints.
        grey: the image.
        network: of descriptors.
        config: how patches are cut.
    """
    keypoints = candidates.keypoints
    assert isinstance(keypoints, ShapedKeypoints)
    has_second = keypoints.second_share[order] >= SECOND_SHARE
    fits = (1 + has_second.long()).cumsum(0) <= len(order)
    first, doubled = order[fits], order[fits & has_second]
    second = replace(keypoints[doubled], angle=keypoints.second_angle[doubled])
    described = describe_keypoints(network, grey, second, config, torch.device("cpu"))
    picked = candidates[first]
    return Chosen(
        index=torch.cat([first, doubled]),
        features=Features(
            Keypoints.concatenate([picked.keypoints, second]),
            torch.cat([picked.descriptors, described.descriptors]),
            (grey.shape[1], grey.shape[0]),
        ),
    )


def describe_upright(
    candidates: Described,
    order: Order,
    grey: Float[Tensor, "height width"],
    network: nn.Module,
    config: DescriptorConfig,
) -> Chosen:
    """Describe the chosen keypoints by patches that are not rotated."""
    upright = replace(config, oriented=False)
    keypoints = candidates.keypoints[order]
    described = describe_keypoints(network, grey, keypoints, upright, torch.device("cpu"))
    size = (grey.shape[1], grey.shape[0])
    return Chosen(order, Features(keypoints, described.descriptors, size))


class AffineShapes:
    """AffNet (Mishkin et al., ECCV 2018) on oriented patches.

    Args:
        weights: the published file ``AffNet.pth``; without it frames stay square, which tells what
            the other way of cutting patches changes.
    """

    def __init__(self, weights: Path | None) -> None:
        self._network: nn.Module | None = None
        if weights is not None:
            module = kornia.feature.LAFAffNetShapeEstimator(pretrained=False)
            state = load_tensors(weights, "AffNet's weights")
            module.load_state_dict(state["state_dict"], strict=False)
            self._network = module.features.eval().requires_grad_(False)

    def describe(
        self,
        candidates: Described,
        order: Order,
        grey: Float[Tensor, "height width"],
        network: nn.Module,
        config: DescriptorConfig,
    ) -> Chosen:
        """Describe the chosen keypoints by patches of their affine frames."""
        keypoints = candidates.keypoints[order]
        frames = _frames(keypoints, config.patch_size_px)
        if self._network is not None:
            patches = _cut(grey, keypoints, frames)
            deviation, mean = torch.std_mean(patches, dim=(1, 2, 3), keepdim=True)
            shape = self._network((patches - mean) / (deviation + 1e-6)).flatten(1)
            affine = torch.zeros(len(shape), 2, 2)
            affine[:, 0, 0], affine[:, 1, 1] = 1 + shape[:, 0], 1 + shape[:, 2]
            affine[:, 1, 0] = shape[:, 1]
            area = torch.linalg.det(affine).clamp(min=1e-3)
            frames = frames @ (affine / area.sqrt()[:, None, None])
        described = describe(network, _cut(grey, keypoints, frames), config.batch_size)
        size = (grey.shape[1], grey.shape[0])
        return Chosen(order, Features(keypoints, described, size))


def _frames(keypoints: Keypoints, patch_size_px: float) -> Float[Tensor, "keypoint 2 2"]:
    """Columns are the patch's half axes in the image."""
    cos, sin = keypoints.angle.cos(), keypoints.angle.sin()
    rotation = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)
    return rotation * (keypoints.scale * patch_size_px / 2)[:, None, None]


def _cut(
    grey: Float[Tensor, "height width"],
    keypoints: Keypoints,
    frames: Float[Tensor, "keypoint 2 2"],
) -> Float[Tensor, "keypoint 1 32 32"]:
    centre = keypoints.xy[:, :, None].float()
    laf = torch.cat([frames, centre], dim=2)[None]
    return kornia.feature.extract_patches_from_pyramid(grey[None, None], laf, PATCH_PX)[0]
