"""The outer pyramid of the paper's published code, with its quirks, for the ``paper`` protocol.

Enlarged levels come from the image itself by OpenCV's bilinear rule. Reduced levels come each from
the one above: a Gaussian of a third of the factor, the image mirrored at its edges, then a bilinear
reading, sizes rounded up; scikit-image's ``pyramid_gaussian`` is the model. A keypoint's place is
its level's pixel times the level's scale, though the resampling aligns pixel areas: up to a pixel
off, as in the published figures.
"""

import math
from collections.abc import Iterator

import cv2
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rekd_hloc.config import DetectorConfig
from rekd_hloc.features.detector.level import Level

TRUNCATE = 4.0
"""Reach of the Gaussian in standard deviations."""


def iterate_paper_levels(
    image: Float[Tensor, "1 1 height width"], config: DetectorConfig
) -> Iterator[Level]:
    """The levels from the largest to the smallest; none is left out, however small.

    Resampling is in float64 throughout, as there; the levels are float32.
    """
    exact = image.double()
    for number in range(-config.levels_up, 0):
        yield _level(_enlarge(exact, config.factor**-number), exact, number, config)
    yield _level(exact, exact, 0, config)
    current = exact
    for number in range(1, config.levels_down + 1):
        current = _reduce(current, config.factor)
        yield _level(current, exact, number, config)


def _level(image: Tensor, original: Tensor, number: int, config: DetectorConfig) -> Level:
    height, width = original.shape[2:]
    return Level(
        image=image.float(),
        number=number,
        scale=config.factor**number,
        ratio=(width / image.shape[3], height / image.shape[2]),
        corner_aligned=False,
    )


def _enlarge(image: Tensor, factor: float) -> Tensor:
    plain = image[0, 0].cpu().numpy()
    # the factors, not the rounded size, set OpenCV's sampling step
    large = cv2.resize(plain, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(large).to(image.device)[None, None]


def _reduce(image: Tensor, factor: float) -> Tensor:
    sigma = 2 * factor / 6.0
    smooth = _blur(_blur(image, 2, sigma), 3, sigma)
    size = [math.ceil(side / factor) for side in image.shape[2:]]
    return F.interpolate(smooth, size, mode="bilinear", align_corners=False)


def _blur(image: Tensor, dim: int, sigma: float) -> Tensor:
    radius = int(TRUNCATE * sigma + 0.5)
    steps = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    taps = torch.exp(-(steps**2) / (2 * sigma**2))
    taps = taps / taps.sum()
    size = image.shape[dim]
    index = torch.arange(-radius, size + radius, device=image.device).remainder(2 * size)
    index = torch.minimum(index, 2 * size - 1 - index)  # the edge pixel is repeated
    padded = image.index_select(dim, index)
    shifted = [tap * padded.narrow(dim, i, size) for i, tap in enumerate(taps)]
    return torch.stack(shifted).sum(dim=0)
