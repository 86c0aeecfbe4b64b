"""The image around keypoints: how contrasted it is, and how much of one direction its edges are.

The network divides by the contrast of a window of 65 px, so its score does not tell a peak in the
sky from one on a wall. Windows of several sizes about the keypoint do. Edges of buildings have one
direction and the one across it, those of leaves have all: the moments of the gradient's direction
to the order 2 and 4 say which. None of it depends on how the image is rotated, but for the windows'
being square.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from rekd_hloc.devices import kept_tensor
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
        pixels = image[None, part.top : part.bottom, part.left : part.right]
        centre = corner[members] - corner.new_tensor([part.left, part.top])
        of_tile = scale[members].double()
        places = _Places(torch.zeros_like(members), centre, of_tile, pixels)
        signs[members] = _measure(pixels.double(), places, with_directions).float()
    return signs


def measure_batch_surroundings(
    images: Float[Tensor, "batch height width"],
    number: Int64[Tensor, " keypoint"],
    xy: Float[Tensor, "keypoint 2"],
    scale: Float[Tensor, " keypoint"],
    *,
    with_directions: bool = True,
) -> Float[Tensor, "keypoint sign"]:
    """Return what :func:`measure_surroundings` does, of keypoints in several images.

    Args:
        images: grey, 0..1, no side longer than ``TILE_PX``.
        number: of the image that each keypoint lies in.
        xy, scale, with_directions: as there.
    """
    places = _Places(number, xy.double() + 0.5, scale.double(), images)
    return _measure(images.double(), places, with_directions).float()


class _Places:
    """The corners of all windows, and where sums up to them are read.

    Attributes:
        area: of each window, in pixels; (keypoint, window).
    """

    def __init__(
        self,
        number: Int64[Tensor, " keypoint"],
        centre: Float64[Tensor, "keypoint 2"],
        scale: Float64[Tensor, " keypoint"],
        images: Float[Tensor, "batch height width"],
    ) -> None:
        rows, columns = (side + 1 for side in images.shape[1:])
        size = kept_tensor((columns - 1, rows - 1), torch.float64, centre.device)
        windows = kept_tensor(WINDOWS_PX, torch.float64, centre.device)
        half = scale[:, None, None] * windows[:, None] / 2
        low = (centre[:, None] - half).clamp(min=0)
        high = torch.minimum(centre[:, None] + half, size)
        self.area = (high - low).clamp(min=1e-6).prod(dim=2)
        (left, top), (right, bottom) = low.unbind(dim=2), high.unbind(dim=2)
        y = torch.stack([bottom, top, bottom, top])
        x = torch.stack([right, left, left, right])
        row = y.floor().long().clamp(0, rows - 2)
        column = x.floor().long().clamp(0, columns - 2)
        self._below, self._beside = y - row, x - column
        self._first = (number[:, None] * rows + row) * columns + column
        self._columns = columns

    def read(
        self, summed: Float64[Tensor, "batch height_1 width_1"]
    ) -> Float64[Tensor, "keypoint window"]:
        """Return sums over the windows; linear in a pixel, which is constant on its square."""
        flat, first, beside = summed.flatten(), self._first, self._beside
        below = first + self._columns
        upper = flat[first] * (1 - beside) + flat[first + 1] * beside
        lower = flat[below] * (1 - beside) + flat[below + 1] * beside
        corners: Tensor = upper * (1 - self._below) + lower * self._below
        return corners[0] + corners[1] - corners[2] - corners[3]


def _measure(
    pixels: Float64[Tensor, "batch height width"], places: _Places, with_directions: bool
) -> Float64[Tensor, "keypoint sign"]:
    # one map after the other: sums in float64 are large
    brightness = (pixels, pixels.square())
    mean, square = (places.read(_summed(map_)) / places.area for map_ in brightness)
    contrast = (square - mean.square()).clamp(min=0).sqrt()
    if not with_directions:
        nothing = torch.zeros_like(contrast)
        return torch.stack([contrast, nothing, nothing], dim=2).flatten(1)
    strength, two_x, two_y, four_x, four_y = (
        places.read(_summed(map_)) / places.area for map_ in _gradient_maps(pixels)
    )
    one = torch.hypot(two_x, two_y) / (strength + FAINT)
    two = torch.hypot(four_x, four_y) / (strength + FAINT)
    return torch.stack([contrast, one, two], dim=2).flatten(1)


def _gradient_maps(
    pixels: Float64[Tensor, "batch height width"],
) -> Iterator[Float64[Tensor, "batch height width"]]:
    """Return the squared gradient, and its parts at twice and four times its angle (x and y)."""
    padded = torch.nn.functional.pad(pixels[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    x = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    y = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    strength = x.square() + y.square()
    yield strength
    two_x, two_y = x.square() - y.square(), 2 * x * y
    yield two_x
    yield two_y
    safe = strength.clamp(min=FAINT)
    yield (two_x.square() - two_y.square()) / safe
    yield 2 * two_x * two_y / safe


def _summed(
    pixels: Float64[Tensor, "batch height width"],
) -> Float64[Tensor, "batch height_1 width_1"]:
    """Return sums over all pixels above and to the left of each corner."""
    return torch.nn.functional.pad(pixels.cumsum(1).cumsum(2), (1, 0, 1, 0))
