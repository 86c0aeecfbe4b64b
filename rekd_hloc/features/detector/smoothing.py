"""Convolution of maps with the same few taps along rows and columns; outside they are zero.

On a CPU OpenCV does it: torch's convolutions of one channel at a time take three times as long for
eight channels, and forty times as long for one.
"""

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


def _smooth_by_opencv(
    plane: Float[Tensor, "channel height width"], taps: Float[np.ndarray, " tap"]
) -> Float[Tensor, "channel height width"]:
    image = np.ascontiguousarray(plane.detach().permute(1, 2, 0).numpy())
    smoothed = cv2.sepFilter2D(image, cv2.CV_32F, taps, taps, borderType=cv2.BORDER_CONSTANT)
    return torch.from_numpy(smoothed.reshape(image.shape)).permute(2, 0, 1)
