"""Masks: which keypoints have a patch free of ignored pixels.

The distance to the nearest ignored pixel decides most keypoints; the patches of the others are
looked at on a grid as fine as the patch's own pixels.
"""

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rekd_hloc.types import Keypoints

GRID = 33
"""Points along a patch's side at which an undecided patch is looked at."""


def patches_are_usable(
    keypoints: Keypoints, is_usable: Bool[Tensor, "height width"], support: float
) -> Bool[Tensor, " keypoint"]:
    """True where no ignored pixel lies in the square of side ``support * scale`` at a keypoint.

    The square is turned by the keypoint's angle; beyond the image nothing is ignored. A support of
    zero asks for the keypoint's own pixel only.
    """
    distance = _distance_to_ignored(is_usable).to(keypoints.xy)
    own = _read(distance, keypoints.xy)
    half = keypoints.scale * support / 2
    usable = own > half * 2**0.5
    undecided = torch.nonzero(~usable & (own > half))[:, 0]
    for chosen in undecided.split(1024):
        usable[chosen] = _whole_patch_is_usable(keypoints[chosen], distance, half[chosen])
    return usable


def _whole_patch_is_usable(keypoints: Keypoints, distance: Tensor, half: Tensor) -> Tensor:
    steps = torch.linspace(-1, 1, GRID, device=half.device)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    offset = torch.stack([x.flatten(), y.flatten()], dim=1)[None] * half[:, None, None]
    cos, sin = keypoints.angle.cos()[:, None], keypoints.angle.sin()[:, None]
    turned = torch.stack(
        [cos * offset[..., 0] - sin * offset[..., 1], sin * offset[..., 0] + cos * offset[..., 1]],
        dim=-1,
    )
    spacing = 2 * half / (GRID - 1)
    points = keypoints.xy[:, None] + turned
    clear = _read(distance, points.reshape(-1, 2)).view(len(half), -1)
    # half a grid cell's diagonal, so that no ignored pixel slips between the points
    return (clear > spacing[:, None] * 0.5**0.5).all(dim=1)


def _distance_to_ignored(is_usable: Tensor) -> Float[Tensor, "height width"]:
    """Pixels from each pixel centre to the nearest ignored one, zero on ignored pixels."""
    usable = is_usable.cpu().numpy().astype(np.uint8)
    if usable.all():
        return torch.full(usable.shape, float("inf"))
    exact = cv2.distanceTransform(usable, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return torch.from_numpy(np.asarray(exact, dtype=np.float32))


def _read(distance: Tensor, xy: Tensor) -> Tensor:
    """Distance at the nearest pixel, less half a pixel's diagonal; beyond the image, at its edge."""
    height, width = distance.shape
    column = xy[:, 0].round().long()
    row = xy[:, 1].round().long()
    outside = (column < 0) | (row < 0) | (column >= width) | (row >= height)
    value = distance[row.clamp(0, height - 1), column.clamp(0, width - 1)]
    return torch.where(outside, torch.full_like(value, float("inf")), value)
