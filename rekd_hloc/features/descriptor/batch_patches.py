"""Patches at keypoints of several images of one size, all images at once, for a GPU.

They are those of :func:`~rekd_hloc.features.descriptor.patches.cut_patches`: a level of all images
is halved by one step, and read by one, in which each image has as many rows as the one that has
most.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from rekd_hloc.features.descriptor.patches import (
    PATCH_PX,
    check_sizes,
    halve,
    sampling_grid,
    steps_and_levels,
)
from rekd_hloc.types import Keypoints

BATCH_CHUNK = 16384
"""Patches sampled at once; bounds the sampling grid to 128 MiB where images have as many each."""


def cut_batch_patches(
    images: Float[Tensor, "batch height width"],
    keypoints: Keypoints,
    image: Int64[Tensor, " keypoint"],
    *,
    patch_size_px: float,
    oriented: bool,
    antialias: bool,
    supports: Sequence[float] = (1.0,),
) -> Float[Tensor, "keypoint support 32 32"]:
    """Return a 32x32 patch for each keypoint and support.

    Args:
        images: grey values, on the device of the keypoints.
        keypoints: in pixels of their images, image by image.
        image: number of the image that each lies in, rising.
        patch_size_px, oriented, antialias, supports: as for one image.

    Raises:
        ValueError: ``patch_size_px`` or a support is not positive.
    """
    check_sizes(patch_size_px, supports)
    patches = images.new_zeros(len(keypoints), len(supports), PATCH_PX, PATCH_PX)
    if len(keypoints) == 0:
        return patches
    shape = images.shape[1:]
    step_px, level = steps_and_levels(
        keypoints, shape, patch_size_px, antialias=antialias, supports=supports
    )
    current = images[:, None]
    for number in range(int(level.max()) + 1):
        if number > 0:
            current = halve(current)
        for chosen in torch.split(torch.nonzero(level == number), BATCH_CHUNK):
            if len(chosen) == 0:
                continue
            keypoint, support = chosen[:, 0], chosen[:, 1]
            place, rows = _places(image[keypoint], len(images))
            of_rows = keypoint[rows]
            steps = step_px[of_rows, support[rows]]
            grid = sampling_grid(keypoints[of_rows], steps, shape, oriented).to(images.dtype)
            grid = grid.view(len(images), -1, PATCH_PX, 2)
            read = F.grid_sample(current, grid, padding_mode="border", align_corners=False)
            patches[keypoint, support] = read.view(-1, PATCH_PX, PATCH_PX)[place]
    return patches


def _places(
    image: Int64[Tensor, " row"], num_images: int
) -> tuple[Int64[Tensor, " row"], Int64[Tensor, " place"]]:
    """Return where each row is in a table of as many places for every image, and the reverse.

    Places that no row takes are given the first row.
    """
    number = torch.arange(len(image), device=image.device)
    count = torch.zeros(num_images, dtype=torch.int64, device=image.device)
    count = count.scatter_add(0, image, torch.ones_like(image))
    most = int(count.max())
    place = image * most + number - (count.cumsum(0) - count)[image]
    rows = torch.zeros(num_images * most, dtype=torch.int64, device=image.device)
    return place, rows.scatter(0, place, number)
