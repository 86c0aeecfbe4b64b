"""From a score map to keypoints: local maxima, sub-pixel positions, one point per structure.

Everything here is a free function on tensors, equivariant to rotations by 90 degrees: no rule
prefers a direction, and ties on a plateau keep every pixel of the plateau out or in alike.
"""

from functools import cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

FIT_RADIUS_PX = 2
"""Reach of the neighbourhood that a position is refined on."""
FIT_SIGMA_PX = 1.0
"""Of the Gaussian that weighs it; chosen on held-out images, see docs/training.md."""


def find_local_maxima(
    score: Float[Tensor, "height width"],
    *,
    window_px: int,
    border_px: int,
    threshold: float = 0.0,
    min_prominence: float = 0.0,
    valid: Bool[Tensor, "height width"] | None = None,
) -> Int64[Tensor, "keypoint 2"]:
    """Pixels (x, y) that are the maximum of their window, strongest first.

    Args:
        score: responses; the border and what is not valid count as zero before the comparison.
        window_px: side of the square window, odd.
        border_px: margin without keypoints.
        threshold: responses at or below it are no keypoints.
        min_prominence: least height above the lowest response of the window, as a share of the
            keypoint's own; zero takes every pixel of a flat response for a keypoint.
        valid: False where the response counts as zero, as at the border.
    """
    height, width = score.shape
    if height <= 2 * border_px or width <= 2 * border_px:
        return torch.zeros(0, 2, dtype=torch.int64, device=score.device)
    inside = keep_inside(score, border_px)
    if valid is not None:
        inside = inside * valid
    is_peak = mark_maxima(
        score, inside, window_px=window_px, threshold=threshold, min_prominence=min_prominence
    )
    y, x = torch.nonzero(is_peak, as_tuple=True)
    order = torch.argsort(inside[y, x], descending=True, stable=True)
    return torch.stack([x, y], dim=1)[order]


def keep_inside(
    score: Float[Tensor, "*batch height width"], border_px: int
) -> Float[Tensor, "*batch height width"]:
    """Return responses that are zero at the border, which is less than half of each side."""
    height, width = score.shape[-2:]
    inside = torch.zeros_like(score)
    rows, columns = slice(border_px, height - border_px), slice(border_px, width - border_px)
    inside[..., rows, columns] = score[..., rows, columns]
    return inside


def mark_maxima(
    score: Float[Tensor, "*batch height width"],
    inside: Float[Tensor, "*batch height width"],
    *,
    window_px: int,
    threshold: float,
    min_prominence: float,
) -> Bool[Tensor, "*batch height width"]:
    """Say which pixels are keypoints of maps, of which ``inside`` is what may hold one.

    The other options are those of :func:`find_local_maxima`.
    """
    is_peak = (inside == _window_max(inside, window_px)) & (inside > threshold)
    if min_prominence > 0:
        lowest = -_window_max(-score, window_px)
        is_peak &= inside - lowest > min_prominence * inside
    return is_peak


def refine_positions(
    score: Float[Tensor, "height width"],
    xy: Int64[Tensor, "keypoint 2"],
    first_xy: tuple[int, int] = (0, 0),
) -> tuple[Float[Tensor, "keypoint 2"], Float[Tensor, " keypoint"]]:
    """Sub-pixel positions and peak heights by a quadratic fit to each 5x5 neighbourhood.

    Where ``score`` is a part of a map, ``first_xy`` is its first pixel there; the positions are
    those in the map.

    The six coefficients are the least-squares fit to the values, weighted by a Gaussian about the
    pixel: nine values alone follow the noise of the maps. A point stays on its pixel where the fit
    has no maximum within one pixel, and a height is never below the pixel's own.
    """
    offset, height = refine_peaks(read_around(score, xy))
    return (xy + xy.new_tensor(first_xy)).to(score.dtype) + offset, height


def refine_peaks(
    around: Float[Tensor, "*batch side side"],
) -> tuple[Float[Tensor, "*batch 2"], Float[Tensor, " *batch"]]:
    """Return how far each maximum is from the middle of its neighbourhood, and how high it is."""
    top, unit, fitted = _fit_peaks(around)
    _, gx, gy, hxx, hxy, hyy = fitted.unbind(dim=-1)
    determinant = hxx * hyy - hxy * hxy
    is_peak = (determinant > 1e-12) & (hxx + hyy < 0)
    safe = torch.where(is_peak, determinant, torch.ones_like(determinant))
    offset = torch.stack([hxy * gy - hyy * gx, hxy * gx - hxx * gy], dim=-1) / safe[..., None]
    is_peak &= offset.abs().amax(dim=-1) <= 1.0
    offset = torch.where(is_peak[..., None], offset, torch.zeros_like(offset))
    rise = 0.5 * (gx * offset[..., 0] + gy * offset[..., 1])
    return offset.to(top.dtype), top + rise.to(top.dtype) * unit


def peak_curvatures(
    around: Float[Tensor, "*batch side side"],
) -> tuple[Float[Tensor, " *batch"], Float[Tensor, " *batch"]]:
    """Return how sharply the response falls from each pixel: least and most, over directions.

    They are second derivatives with the sign changed, as shares of the pixel's own response per
    square pixel of the map, so a rotation of the map leaves them as they are.

    Args:
        around: responses about each pixel, see :func:`read_around`.
    """
    _, _, fitted = _fit_peaks(around)
    _, _, _, hxx, hxy, hyy = fitted.unbind(dim=-1)
    middle = -(hxx + hyy) / 2
    spread = torch.hypot((hxx - hyy) / 2, hxy)
    return (middle - spread).to(around.dtype), (middle + spread).to(around.dtype)


def read_around(
    score: Float[Tensor, "*batch height width"], xy: Int64[Tensor, "*batch keypoint 2"]
) -> Float[Tensor, "*batch keypoint side side"]:
    """Return the 5x5 responses about pixels (x, y) of maps; the border's are repeated beyond it."""
    height, width = score.shape[-2:]
    steps = _steps(FIT_RADIUS_PX, score.device)
    y = (xy[..., 1, None, None] + steps[:, None]).clamp(0, height - 1)
    x = (xy[..., 0, None, None] + steps).clamp(0, width - 1)
    index = y * width + x
    read = score.flatten(-2).gather(-1, index.flatten(-3))
    return read.view(index.shape)


def _fit_peaks(
    around: Float[Tensor, "*batch side side"],
) -> tuple[Float[Tensor, " *batch"], Float[Tensor, " *batch"], Float64[Tensor, "*batch 6"]]:
    """Response at each pixel, its unit, and the coefficients of the fit about it in that unit."""
    top = around[..., FIT_RADIUS_PX, FIT_RADIUS_PX]
    unit = torch.where(top > 0, top, torch.ones_like(top))
    # relative to the peak, so that the fit depends neither on the unit nor on an offset
    patch = (around - top[..., None, None]) / unit[..., None, None]
    return top, unit, patch.flatten(-2).double() @ _quadratic_fit(around.device).T


def find_duplicates(
    xy: Float[Tensor, "keypoint 2"],
    level: Int64[Tensor, " keypoint"],
    scale: Float[Tensor, " keypoint"],
    score: Float[Tensor, " keypoint"],
    *,
    radius_px: float,
    block: int = 16384,
) -> Bool[Tensor, " keypoint"]:
    """True for keypoints beside a stronger one of a neighbouring level: the same structure twice.

    Beside means within ``radius_px`` pixels of the coarser of the two levels. The rule looks at
    each pair alone, so the answer does not depend on the order of the keypoints; of two equally
    strong ones both stay. Only places in neighbouring cells of a grid are compared, ``block``
    points of the coarser levels at once.
    """
    duplicate = torch.zeros(len(xy), dtype=torch.bool, device=xy.device)
    if len(xy) == 0:
        return duplicate
    rank = level - level.min()
    largest = scale.new_zeros(int(rank.max()) + 2).scatter_reduce(0, rank, scale, "amax")
    # the two levels that meet, by the rank of the upper one; cells as wide as their largest reach
    largest = torch.maximum(largest, largest.roll(1))
    # where neither level has a keypoint, nothing is looked up
    cell_px = radius_px * torch.where(largest > 0, largest, largest.amax()).to(xy.dtype)
    grid = _PairGrid(xy, rank + 1, cell_px)  # as the lower of two levels
    for members in torch.split(torch.arange(len(xy), device=xy.device), block):
        upper, lower = grid.neighbours(xy[members], rank[members])
        upper = members[upper]
        reach = radius_px * torch.maximum(scale[upper], scale[lower])
        beside = (xy[upper] - xy[lower]).norm(dim=1) < reach
        duplicate[upper[beside & (score[upper] < score[lower])]] = True
        duplicate[lower[beside & (score[lower] < score[upper])]] = True
    return duplicate


class _PairGrid:
    """Points by the cell that they lie in, each in a plane of cells of its own width.

    Args:
        xy: points.
        plane: number of each one's plane.
        cell_px: width of the cells of every plane.
    """

    def __init__(self, xy: Tensor, plane: Tensor, cell_px: Tensor) -> None:
        self._cell_px = cell_px
        widths = torch.stack([cell_px.amin(), cell_px.amax()])[:, None]
        corners = torch.stack([xy.amin(dim=0) / widths, xy.amax(dim=0) / widths])
        self._first = corners.amin(dim=(0, 1)).floor().long() - 1
        last = corners.amax(dim=(0, 1)).floor().long() + 1
        self._columns, self._rows = (int(count) for count in last - self._first + 1)
        self._keys, self._order = torch.sort(self._key(xy, plane, 0))

    def neighbours(self, xy: Tensor, plane: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs (index of a given point, index of a point of its plane in its or the next cell)."""
        given, neighbours = [], []
        for row in (-1, 0, 1):  # the three cells of a row follow one another
            middle = self._key(xy, plane, row)
            first = torch.searchsorted(self._keys, middle - 1)
            count = torch.searchsorted(self._keys, middle + 1, right=True) - first
            given.append(torch.repeat_interleave(count))
            within = torch.arange(len(given[-1]), device=xy.device)
            start = (first - (count.cumsum(0) - count))[given[-1]]
            neighbours.append(self._order[start + within])
        return torch.cat(given), torch.cat(neighbours)

    def _key(self, xy: Tensor, plane: Tensor, row: int) -> Tensor:
        cell = torch.floor(xy / self._cell_px[plane, None]).long() - self._first
        return (plane * self._rows + cell[:, 1] + row) * self._columns + cell[:, 0]


def _window_max(score: Tensor, window_px: int) -> Tensor:
    if score.device.type == "cpu" and not score.requires_grad:
        return _window_max_by_opencv(score, window_px)
    return _window_max_by_pooling(score, window_px)


def _window_max_by_opencv(score: Tensor, window_px: int) -> Tensor:
    """The cost does not grow with the window: a tenth of the other's time on a CPU."""
    window = np.ones((window_px, window_px), np.uint8)
    planes = score.reshape(-1, *score.shape[-2:]).numpy()
    highest = [torch.from_numpy(cv2.dilate(plane, window)) for plane in planes]
    return (highest[0] if len(highest) == 1 else torch.stack(highest)).view(score.shape)


def _window_max_by_pooling(score: Tensor, window_px: int) -> Tensor:
    radius = window_px // 2
    maps = score.reshape(-1, 1, *score.shape[-2:])
    maps = F.max_pool2d(maps, (window_px, 1), stride=1, padding=(radius, 0))
    maps = F.max_pool2d(maps, (1, window_px), stride=1, padding=(0, radius))
    return maps.view(score.shape)


@cache
def _steps(radius_px: int, device: torch.device) -> Int64[Tensor, " step"]:
    """Never dropped: captured graphs read it."""
    with torch.inference_mode(mode=False):
        return torch.arange(-radius_px, radius_px + 1, device=device)


@cache
def _quadratic_fit(device: torch.device) -> Float64[Tensor, "coefficient pixel"]:
    """Takes the values of a neighbourhood to (value, gx, gy, hxx, hxy, hyy) at its middle."""
    steps = torch.arange(-FIT_RADIUS_PX, FIT_RADIUS_PX + 1, dtype=torch.float64)
    y, x = (grid.flatten() for grid in torch.meshgrid(steps, steps, indexing="ij"))
    terms = torch.stack([torch.ones_like(x), x, y, x * x / 2, x * y, y * y / 2], dim=1)
    weights = torch.exp(-(x * x + y * y) / (2 * FIT_SIGMA_PX**2))
    fit: Tensor = torch.linalg.solve(terms.T * weights @ terms, terms.T * weights)
    return fit.to(device)
