"""Convolution of maps with the same few taps along rows and columns; outside they are zero.

On a CPU OpenCV does it: torch's convolutions of one channel at a time take three times as long for
eight channels, and forty times as long for one.
"""

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def smooth(
    maps: Float[Tensor, "batch channel height width"], taps: Float[Tensor, " tap"]
) -> Float[Tensor, "batch channel height width"]:
    """Convolve each channel with an odd number of symmetric taps, along both axes."""
    by_opencv = maps.device.type == "cpu" and maps.dtype == torch.float32
    by_opencv = by_opencv and not (torch.is_grad_enabled() and maps.requires_grad)
    if by_opencv and not torch.compiler.is_compiling():  # an exported graph has torch only
        kernel = taps.numpy()
        planes = [_smooth_by_opencv(plane, kernel) for plane in maps]
        return torch.stack(planes) if len(planes) > 1 else planes[0][None]
    radius, channels = len(taps) // 2, maps.shape[1]
    rows = taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    columns = taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    smoothed = F.conv2d(maps, rows, padding=(radius, 0), groups=channels)
    return F.conv2d(smoothed, columns, padding=(0, radius), groups=channels)


def blur_taps(sigma: float, radius: int, gain: float) -> Float[Tensor, " tap"]:
    """Return a Gaussian whose square in two dimensions sums up to the gain."""
    taps = torch.exp(-(torch.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
    # gain 0: the paper's code divides by sqrt(2 pi) sigma, the norm of a one-dimensional Gaussian
    norm = taps.sum() ** 2 / gain if gain > 0 else torch.tensor(math.sqrt(2 * math.pi) * sigma)
    return taps / norm.sqrt()


def gaussian_taps(sigma: float) -> Float[Tensor, " tap"]:
    """Return a Gaussian that sums up to one, cut at three standard deviations."""
    radius = max(math.ceil(3 * sigma), 1)
    taps = torch.exp(-(torch.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
    return taps / taps.sum()


def _smooth_by_opencv(
    plane: Float[Tensor, "channel height width"], taps: Float[np.ndarray, " tap"]
) -> Float[Tensor, "channel height width"]:
    image = np.ascontiguousarray(plane.detach().permute(1, 2, 0).numpy())
    smoothed = cv2.sepFilter2D(image, cv2.CV_32F, taps, taps, borderType=cv2.BORDER_CONSTANT)
    return torch.from_numpy(smoothed.reshape(image.shape)).permute(2, 0, 1)
