"""Local contrast normalisation: (x - mean) / (1 + std) over a square box (Lee et al. 2022, code).

The box sums are two running sums, one for each axis, in float64, so the cost does not grow with
the box and nothing is lost to cancellation. Outside the image the pixels are mirrored about the
border pixel; where the box reaches further than one mirroring, mirroring goes on back and forth,
so that every image size from 1x1 up has a value.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


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
    exact = image.double()
    mean = _box_mean(exact, window_px)
    variance = (_box_mean(exact * exact, window_px) - mean * mean).clamp(min=0)
    return ((exact - mean) / (1.0 + variance.sqrt())).to(image.dtype)


def _box_mean(
    values: Float[Tensor, "batch channel height width"], window_px: int
) -> Float[Tensor, "batch channel height width"]:
    for dim in (2, 3):
        padded = values.index_select(dim, _mirrored_indices(values.shape[dim], window_px, values))
        # the leading zero slice makes "sum of the first n" available for n = 0 too
        first = torch.zeros_like(padded.narrow(dim, 0, 1))
        sums = torch.cat([first, padded.cumsum(dim)], dim)
        size = values.shape[dim]
        values = (sums.narrow(dim, window_px, size) - sums.narrow(dim, 0, size)) / window_px
    return values


def _mirrored_indices(size: int, window_px: int, like: Tensor) -> Int64[Tensor, " padded"]:
    radius = window_px // 2
    index = torch.arange(-radius, size + radius, device=like.device)
    period = max(2 * (size - 1), 1)
    index = index.remainder(period)
    return torch.minimum(index, period - index) if size > 1 else torch.zeros_like(index)
