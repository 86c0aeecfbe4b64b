"""Masks: which keypoints have a patch free of ignored pixels.

The distance to the nearest ignored pixel decides most keypoints; the patches of the others are
looked at on a grid. Pixels are unit squares here, and every doubt counts against the keypoint: a
patch passes only if it keeps clear of the ignored area by the spacing of that grid, which is also
about what a descriptor's blur reaches beyond its patch.
"""

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from rekd_hloc.types import Keypoints

FILL_WINDOWS_PX = (9, 33, 129, 513)
"""Sides of the windows whose usable pixels stand in for ignored ones, the least that has any."""
GRID = 33
"""Points along a patch's side at which an undecided patch is looked at."""
HALF_DIAGONAL_PX = 0.5**0.5
"""From a pixel's centre to its corner."""
BLOCK = 1024
"""Patches looked at at once."""


class PatchMask:
    """Tells which keypoints have a patch without ignored pixels.

    Args:
        is_usable: False where a pixel must be ignored; beyond the image nothing is.
        patch_size_px: the patch is a square of side ``patch_size_px * scale``; zero asks for the
            keypoint's own pixel only.
        oriented: the patch is rotated by the keypoint's angle.
    """

    def __init__(
        self, is_usable: Bool[Tensor, "height width"], patch_size_px: float, *, oriented: bool
    ) -> None:
        self._distance = _distance_to_ignored(is_usable).to(is_usable.device)
        self._patch_size_px = patch_size_px
        self.oriented = oriented

    def __call__(self, keypoints: Keypoints) -> Bool[Tensor, " keypoint"]:
        """Return True for usable patches."""
        nowhere = keypoints.xy.new_tensor(float("inf"))
        distance_px = _read(self._distance, keypoints.xy, reach=nowhere)
        if self._patch_size_px == 0:
            return distance_px > 0
        half = keypoints.scale * self._patch_size_px / 2
        # the reading is up to half a diagonal off, and the ignored pixel has a corner half a
        # diagonal nearer than its centre
        usable = distance_px > half * 2**0.5 + 2 * HALF_DIAGONAL_PX
        undecided = torch.nonzero(~usable & (distance_px > half - HALF_DIAGONAL_PX))[:, 0]
        for first in range(0, len(undecided), BLOCK):
            chosen = undecided[first : first + BLOCK]
            angle = keypoints.angle[chosen] if self.oriented else torch.zeros_like(half[chosen])
            xy = keypoints.xy[chosen]
            usable[chosen] = _whole_patch_is_usable(xy, angle, half[chosen], self._distance)
        return usable


def patches_are_usable(
    keypoints: Keypoints,
    is_usable: Bool[Tensor, "height width"],
    patch_size_px: float,
    *,
    oriented: bool = True,
) -> Bool[Tensor, " keypoint"]:
    """Tell which keypoints have a patch without ignored pixels; see :class:`PatchMask`."""
    return PatchMask(is_usable, patch_size_px, oriented=oriented)(keypoints)


def fill_ignored(
    image: Float[Tensor, "height width"], is_usable: Bool[Tensor, "height width"]
) -> Float[Tensor, "height width"]:
    """Return the image with the means of the usable pixels around in place of ignored ones.

    What was there does not matter. A square about a keypoint may then reach into it: no patch that
    the keypoint stands for, but the surroundings that some descriptors see too.
    """
    usable = is_usable.cpu().numpy()
    if usable.all() or not usable.any():
        return image
    grey = np.where(usable, image.cpu().numpy(), 0).astype(np.float64)
    weight = usable.astype(np.float64)
    filled = np.full_like(grey, grey.sum() / weight.sum())
    for side in reversed(FILL_WINDOWS_PX):
        around, sums = (_window_sums(map_, side) for map_ in (weight, grey))
        # sums of ones are whole numbers, but for rounding
        filled = np.where(around > 0.5, sums / np.maximum(around, 0.5), filled)
    filled = np.where(usable, grey, filled).astype(np.float32)
    return torch.from_numpy(filled).to(image)


def _window_sums(
    map_: Float64[np.ndarray, "height width"], side: int
) -> Float64[np.ndarray, "height width"]:
    """Return the sum of a square window about each pixel; beyond the border is nothing."""
    return np.asarray(
        cv2.boxFilter(map_, -1, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
    )


def _whole_patch_is_usable(xy: Tensor, angle: Tensor, half: Tensor, distance: Tensor) -> Tensor:
    steps = torch.linspace(-1, 1, GRID, device=xy.device)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    offset = torch.stack([x.flatten(), y.flatten()], dim=1)[None] * half[:, None, None]
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    rotated = torch.stack(
        [cos * offset[..., 0] - sin * offset[..., 1], sin * offset[..., 0] + cos * offset[..., 1]],
        dim=-1,
    )
    # no point of the patch is farther from the grid than half the diagonal of a grid cell
    reach = (2 * half / (GRID - 1) * HALF_DIAGONAL_PX)[:, None].expand(-1, GRID**2)
    points = xy[:, None] + rotated
    clear = _read(distance, points.reshape(-1, 2), reach.reshape(-1)).view(len(half), -1)
    needed = reach[:, :1] + 2 * HALF_DIAGONAL_PX
    return (clear > needed).all(dim=1)


def _distance_to_ignored(is_usable: Tensor) -> Float[Tensor, "height width"]:
    """Pixels from each pixel centre to the nearest ignored one, zero on ignored pixels."""
    usable = is_usable.cpu().numpy().astype(np.uint8)
    if usable.all():
        return torch.full((1, 1), float("inf")).expand(usable.shape)
    exact = cv2.distanceTransform(usable, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return torch.from_numpy(np.asarray(exact, dtype=np.float32))


def _read(distance: Tensor, xy: Tensor, reach: Tensor) -> Tensor:
    """Distance at the nearest pixel; infinite at points farther than ``reach`` from the image."""
    height, width = distance.shape
    column = xy[:, 0].round().long().clamp(0, width - 1)
    row = xy[:, 1].round().long().clamp(0, height - 1)
    beyond_x = (xy[:, 0] - xy[:, 0].clamp(-0.5, width - 0.5)).abs()
    beyond_y = (xy[:, 1] - xy[:, 1].clamp(-0.5, height - 0.5)).abs()
    outside = torch.hypot(beyond_x, beyond_y) > reach
    value = distance[row, column].to(xy.dtype)  # the map itself stays small, in float32
    return torch.where(outside, torch.full_like(value, float("inf")), value)
