"""The image around keypoints: how contrasted it is, and how much of one direction its edges are.

The network divides by the contrast of a window of 65 px, so its score does not tell a peak in the
sky from one on a wall. Windows of several sizes about the keypoint do. Edges of buildings have one
direction and the one across it, those of leaves have all: the moments of the gradient's direction
to the order 2 and 4 say which. None of it depends on how the image is rotated, but for the windows'
being square.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rekd_hloc.features.detector.tiles import Region

WINDOWS_PX = (12.0, 48.0, 192.0)
"""Sides of the square windows, in pixels of the keypoint's level."""
SURROUNDINGS = tuple(
    f"{name}_{side:.0f}"
    for side in WINDOWS_PX
    for name in ("contrast", "one_direction", "two_directions")
)
"""What is measured in each window: the standard deviation of grey values; how much of one direction
the squared gradients are, and how much of two across each other, both in 0..1."""
TILE_PX = 2048
"""Side of the part of an image whose sums are in memory at once."""
FAINT = 1e-6
"""Squared gradient below which a window has no direction."""


def measure_surroundings(
    image: Float[Tensor, "height width"],
    xy: Float[Tensor, "keypoint 2"],
    scale: Float[Tensor, " keypoint"],
    *,
    with_directions: bool = True,
) -> Float[Tensor, "keypoint sign"]:
    """Return ``SURROUNDINGS`` of keypoints; windows are cut at the border of the image.

    Args:
        image: grey, 0..1.
        xy: in pixels of the image; (0, 0) is the centre of the first pixel.
        scale: of each keypoint; its windows are larger by as much.
        with_directions: measure directions too, which takes most of the time; zeros without.
    """
    signs = torch.zeros(len(xy), len(SURROUNDINGS), device=image.device)
    height, width = image.shape
    corner = xy.double() + 0.5
    tile = (corner / TILE_PX).floor().long()
    for number in torch.unique(tile, dim=0) if len(xy) else ():
        members = torch.nonzero((tile == number).all(dim=1))[:, 0]
        reach = int(torch.ceil(scale[members].max() * max(WINDOWS_PX) / 2)) + 2
        left, top = (int(first) * TILE_PX for first in number)
        part = Region(top, top + TILE_PX, left, left + TILE_PX).grow(reach, (height, width))
        pixels = image[part.top : part.bottom, part.left : part.right]
        centre = corner[members] - corner.new_tensor([part.left, part.top])
        of_tile = scale[members].double()
        signs[members] = _measure(pixels.double(), centre, of_tile, with_directions).float()
    return signs


def _measure(
    pixels: Float64[Tensor, "height width"],
    centre: Float64[Tensor, "keypoint 2"],
    scale: Float64[Tensor, " keypoint"],
    with_directions: bool,
) -> Float64[Tensor, "keypoint sign"]:
    size = centre.new_tensor([pixels.shape[1], pixels.shape[0]])
    half = scale[:, None, None] * centre.new_tensor(WINDOWS_PX)[:, None] / 2
    low = (centre[:, None] - half).clamp(min=0)
    high = torch.minimum(centre[:, None] + half, size)
    area = (high - low).clamp(min=1e-6).prod(dim=2)
    # one map after the other: sums in float64 are large
    brightness = (pixels, pixels.square())
    mean, square = (_read(_summed(map_), low, high) / area for map_ in brightness)
    contrast = (square - mean.square()).clamp(min=0).sqrt()
    if not with_directions:
        nothing = torch.zeros_like(contrast)
        return torch.stack([contrast, nothing, nothing], dim=2).flatten(1)
    strength, two_x, two_y, four_x, four_y = (
        _read(_summed(map_), low, high) / area for map_ in _gradient_maps(pixels)
    )
    one = torch.hypot(two_x, two_y) / (strength + FAINT)
    two = torch.hypot(four_x, four_y) / (strength + FAINT)
    return torch.stack([contrast, one, two], dim=2).flatten(1)


def _gradient_maps(
    pixels: Float64[Tensor, "height width"],
) -> Iterator[Float64[Tensor, "height width"]]:
    """Return the squared gradient, and its parts at twice and four times its angle (x and y)."""
    padded = torch.nn.functional.pad(pixels[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    x = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    y = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    strength = x.square() + y.square()
    yield strength
    two_x, two_y = x.square() - y.square(), 2 * x * y
    yield two_x
    yield two_y
    safe = strength.clamp(min=FAINT)
    yield (two_x.square() - two_y.square()) / safe
    yield 2 * two_x * two_y / safe


def _summed(pixels: Float64[Tensor, "height width"]) -> Float64[Tensor, "height_1 width_1"]:
    """Return sums over all pixels above and to the left of each corner."""
    return torch.nn.functional.pad(pixels.cumsum(0).cumsum(1), (1, 0, 1, 0))


def _read(
    summed: Float64[Tensor, "height width"],
    low: Float64[Tensor, "keypoint window 2"],
    high: Float64[Tensor, "keypoint window 2"],
) -> Float64[Tensor, "keypoint window"]:
    """Return sums over rectangles; linear between corners, as a pixel is constant on its square."""
    (left, top), (right, bottom) = low.unbind(dim=2), high.unbind(dim=2)
    return (
        _bilinear(summed, bottom, right)
        + _bilinear(summed, top, left)
        - _bilinear(summed, bottom, left)
        - _bilinear(summed, top, right)
    )


def _bilinear(summed: Tensor, y: Tensor, x: Tensor) -> Tensor:
    rows, columns = summed.shape
    row = y.floor().long().clamp(0, rows - 2)
    column = x.floor().long().clamp(0, columns - 2)
    below, beside = y - row, x - column
    upper = summed[row, column] * (1 - beside) + summed[row, column + 1] * beside
    lower = summed[row + 1, column] * (1 - beside) + summed[row + 1, column + 1] * beside
    value: Tensor = upper * (1 - below) + lower * below
    return value
