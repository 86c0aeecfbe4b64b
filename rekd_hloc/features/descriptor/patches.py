"""Square patches at keypoints, upright or rotated, sampled without aliasing.

The sampling is this project's own instead of kornia's ``extract_patches_from_pyramid``. An angle,
clockwise in image coordinates, is used as it is. A keypoint of scale 1 is cut from the same pyramid
level whatever the rounding of its scale, and one call samples all patches of a level. A patch's row
and column axes are the image's y and x rotated by the angle, so the patch rotates with the image.
A network may ask for several supports: squares of several sizes about one keypoint, in one frame.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from rekd_hloc.devices import kept_tensor
from rekd_hloc.types import Keypoints

PATCH_PX = 32
"""Side of a patch, which HardNet and its peers expect."""
LEVEL_SLACK = 0.02
"""Octaves by which a patch may be too small for its level; swallows rounding of the scale."""
CHUNK = 4096
"""Patches sampled at once; bounds the sampling grid to 32 MiB."""


def cut_patches(
    image: Float[Tensor, "height width"],
    keypoints: Keypoints,
    *,
    patch_size_px: float,
    oriented: bool,
    antialias: bool,
    supports: Sequence[float] = (1.0,),
) -> Float[Tensor, "keypoint support 32 32"]:
    """Return a 32x32 patch for each keypoint and support, read bilinearly.

    The patch is a grid of 32x32 cells that tile a square about the keypoint, of side
    ``patch_size_px * scale`` times the support; a cell's value is read at the cell's centre. Where
    the square leaves the image, the nearest border pixel is repeated.

    Args:
        image: grey values, on the device of the keypoints.
        keypoints: in pixels of the image.
        patch_size_px: side of the square for scale 1, in pixels.
        oriented: rotate the square by the keypoint's angle; else it stays upright.
        antialias: read from a pyramid of halved images, at the level where two cells are 1 to 2
            pixels apart; else always from the image itself, as the paper's code does.
        supports: factors on the side, one for each channel of the patches.

    Raises:
        ValueError: ``patch_size_px`` or a support is not positive.
    """
    check_sizes(patch_size_px, supports)
    patches = image.new_zeros(len(keypoints), len(supports), PATCH_PX, PATCH_PX)
    if len(keypoints) == 0 or image.numel() == 0:
        return patches
    step_px, level = steps_and_levels(
        keypoints, image.shape, patch_size_px, antialias=antialias, supports=supports
    )
    current = image[None, None]
    for number in range(int(level.max()) + 1):
        if number > 0:
            current = halve(current)
        for chosen in torch.split(torch.nonzero(level == number), CHUNK):
            keypoint, support = chosen[:, 0], chosen[:, 1]
            steps = step_px[keypoint, support]
            grid = sampling_grid(keypoints[keypoint], steps, image.shape, oriented)
            patches[keypoint, support] = _read(current, grid.to(image.dtype))
    return patches


def check_sizes(patch_size_px: float, supports: Sequence[float]) -> None:
    """Check the sides of squares.

    Raises:
        ValueError: one is not positive.
    """
    if not patch_size_px > 0:
        raise ValueError(f"patch_size_px must be positive, got {patch_size_px}")
    if not supports or not min(supports) > 0:
        raise ValueError(f"supports must be positive factors, got {tuple(supports)}")


def steps_and_levels(
    keypoints: Keypoints,
    shape: torch.Size,
    patch_size_px: float,
    *,
    antialias: bool,
    supports: Sequence[float],
) -> tuple[Float[Tensor, "keypoint support"], Int64[Tensor, "keypoint support"]]:
    """Return pixels of the image between two cells, and the halvings of the level to read from.

    Args:
        keypoints, patch_size_px, antialias, supports: as for :func:`cut_patches`.
        shape: (height, width) of the image.
    """
    step_px = keypoints.scale * (patch_size_px / PATCH_PX)
    step_px = step_px[:, None] * kept_tensor(tuple(supports), step_px.dtype, step_px.device)
    level = torch.zeros_like(step_px, dtype=torch.int64)
    if antialias:
        octave = torch.log2(step_px.clamp(min=1e-6)) + LEVEL_SLACK
        level = octave.floor().clamp(min=0).long().clamp(max=_num_halvings(shape))
    return step_px, level


def affine_frames(
    keypoints: Keypoints, patch_size_px: float, *, oriented: bool
) -> Float[Tensor, "keypoint 2 3"]:
    """Return the maps from the square of -1..1 to the squares that are described.

    kornia calls them local affine frames, and cuts the same patches from them.

    Args:
        keypoints: in pixels of the image.
        patch_size_px: side of the square for scale 1, in pixels.
        oriented: whether the squares are rotated by the keypoints' angles.
    """
    half = keypoints.scale * (patch_size_px / 2)
    angle = keypoints.angle if oriented else torch.zeros_like(half)
    cos, sin = half * angle.cos(), half * angle.sin()
    rows = [cos, -sin, keypoints.xy[:, 0], sin, cos, keypoints.xy[:, 1]]
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def _num_halvings(shape: torch.Size) -> int:
    """Say how often the image can be halved before its shorter side is one pixel."""
    return min(shape).bit_length() - 1


def halve(
    image: Float[Tensor, "batch 1 height width"],
) -> Float[Tensor, "batch 1 half_height half_width"]:
    """Return images of half the size, by a triangle over four pixels; odd sides are rounded up."""
    size = [(side + 1) // 2 for side in image.shape[2:]]
    return F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)


def sampling_grid(
    keypoints: Keypoints, step_px: Tensor, shape: torch.Size, oriented: bool
) -> Float[Tensor, "keypoint 32 32 2"]:
    """Return cell centres as fractions of the image: -1 and 1 are its outer edges, at any level."""
    offset = torch.arange(PATCH_PX, dtype=step_px.dtype, device=step_px.device)
    offset = offset - (PATCH_PX - 1) / 2
    angle = keypoints.angle if oriented else torch.zeros_like(step_px)
    cos, sin = (step_px * angle.cos())[:, None, None], (step_px * angle.sin())[:, None, None]
    column, row = offset[None, None, :], offset[None, :, None]
    x = keypoints.xy[:, 0, None, None] + cos * column - sin * row
    y = keypoints.xy[:, 1, None, None] + sin * column + cos * row
    height, width = shape
    return torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)


def _read(image: Tensor, grid: Tensor) -> Float[Tensor, "keypoint 32 32"]:
    rows = grid.reshape(1, -1, PATCH_PX, 2)
    read = F.grid_sample(image, rows, padding_mode="border", align_corners=False)
    return read.view(len(grid), PATCH_PX, PATCH_PX)
