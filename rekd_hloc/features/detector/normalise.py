"""Local contrast normalisation: (x - mean) / (1 + std) over a square box (Lee et al. 2022, code).

The boxes are running sums in float64, OpenCV's on a CPU and our own on a GPU, so the cost
does not grow with the box and nothing is lost to cancellation. Outside the image the pixels are
mirrored about the border pixel; where the box reaches further than one mirroring, mirroring goes on
back and forth, so that every image size from 1x1 up has a value.
"""

from functools import lru_cache

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rekd_hloc.devices import exact_device
from rekd_hloc.features.captured_graphs import is_capturing


def normalise_contrast(
    image: Float[Tensor, "batch channel height width"], window_px: int
) -> Float[Tensor, "batch channel height width"]:
    """Subtract the local mean and divide by one plus the local standard deviation.

    Args:
        image: grey values, in the range that the network was trained on.
        window_px: side of the box in pixels, odd.

    Returns:
        The normalised image; a constant image gives zeros.
    """
    exact = image.to(exact_device(image.device)).double()
    both = torch.cat([exact, exact * exact], dim=1)
    by_opencv = both.device.type == "cpu" and not both.requires_grad
    by_opencv = by_opencv and not torch.compiler.is_compiling()  # an exported graph has torch only
    means = (_box_mean_by_opencv if by_opencv else _box_mean)(both, window_px)
    mean, mean_square = means.chunk(2, 1)
    variance = (mean_square - mean * mean).clamp(min=0)
    return ((exact - mean) / (1.0 + variance.sqrt())).to(image.dtype).to(image.device)


def is_constant(grey: Float[Tensor, "1 1 height width"]) -> bool:
    """Say whether an image is of one grey: it has no maximum, and no contrast to divide by."""
    return bool(grey.min() == grey.max())


def _box_mean(
    values: Float[Tensor, "batch channel height width"], window_px: int
) -> Float[Tensor, "batch channel height width"]:
    # a graph reads what it was captured with for ever, and none of what may be dropped
    is_recorded = torch.compiler.is_compiling() or is_capturing()
    indices = _mirror if is_recorded else _kept_indices
    for dim in (2, 3):
        size = values.shape[dim]
        sums = values.index_select(dim, indices(size, window_px, values.device)).cumsum(dim)
        values = sums.narrow(dim, window_px, size) - sums.narrow(dim, 0, size)
    return values / window_px**2


def _box_mean_by_opencv(
    values: Float[Tensor, "batch channel height width"], window_px: int
) -> Float[Tensor, "batch channel height width"]:
    """Four times as fast on a CPU."""
    size, mirrored = (window_px, window_px), cv2.BORDER_REFLECT_101
    planes = values.flatten(0, 1).numpy()
    means = [cv2.boxFilter(plane, cv2.CV_64F, size, borderType=mirrored) for plane in planes]
    return torch.from_numpy(np.stack(means)).view(values.shape)


@lru_cache(maxsize=64)
def _kept_indices(size: int, window_px: int, device: torch.device) -> Int64[Tensor, " padded"]:
    """On a GPU every small step costs as much as one on the whole image."""
    with torch.inference_mode(mode=False):  # training may need what inference has kept
        return _mirror(size, window_px, device)


def _mirror(size: int, window_px: int, device: torch.device) -> Int64[Tensor, " padded"]:
    """Indices of the pixels from half a window before the first to half a one after the last.

    One more comes before them: a sum over a window is that up to its end, less that up to its
    start, without a zero to be put in front.
    """
    radius = window_px // 2
    index = torch.arange(-radius - 1, size + radius, device=device)
    period = torch.scalar_tensor(2 * (size - 1), dtype=index.dtype, device=device)
    period = period.clamp(min=1)  # of a single pixel
    index = index.remainder(period)
    return torch.minimum(index, period - index)
