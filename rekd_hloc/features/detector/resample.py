"""Resampling a part of a map as torch resamples the whole: at the positions of the whole map.

The positions are computed in the precision that torch has for them, so that a part differs from
the same part of the whole by rounding only.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from rekd_hloc.features.detector.tiles import Region, Size

CUBIC = -0.75
"""Parameter of the bicubic kernel, that of torch."""

FRACTION = 1 << 40
"""Denominator of a factor in integers; a side of 16 bits times it is no more than 64 bits hold."""


@dataclass(frozen=True)
class Taps:
    """The pixels that each row (or column) of a resampled map is made of, and their weights."""

    index: Int64[Tensor, "tap row"]
    weight: Float[Tensor, "tap row"]

    def span(self) -> tuple[int, int]:
        """Return the first source pixel and the first one after the last."""
        return int(self.index.min()), int(self.index.max()) + 1


TapsOfRows = Callable[[int, int, int, int], Taps]
"""Function of the first row, the one after the last, and the sides of source and target."""


def aligned_taps(first: int, end: int, source: int, target: int) -> Taps:
    """Linear, corners aligned: rows ``first`` to ``end`` of ``target``, made from ``source``."""
    scale = torch.tensor(source - 1.0) / torch.tensor(target - 1.0 if target > 1 else torch.inf)
    return linear_taps(scale * torch.arange(first, end, dtype=torch.float32), source)


def linear_taps(position: Float[Tensor, " row"], source: int) -> Taps:
    """Linear, at these positions, which are clamped to the map."""
    position = position.clamp(0, source - 1)
    index = position.floor()
    fraction = position - index
    after = (index + 1).clamp(max=source - 1)
    return Taps(torch.stack([index, after]).long(), torch.stack([1 - fraction, fraction]))


def area_taps(first: int, end: int, source: int, target: int) -> Taps:
    """Linear, pixel areas aligned; see :func:`aligned_taps`."""
    scale = torch.tensor(float(source)) / torch.tensor(float(target))
    return linear_taps(scale * (torch.arange(first, end, dtype=torch.float32) + 0.5) - 0.5, source)


def cubic_taps(first: int, end: int, source: int, target: int) -> Taps:
    """Cubic, pixel areas aligned; see :func:`aligned_taps`."""
    scale = torch.tensor(float(source)) / torch.tensor(float(target))
    position = scale * (torch.arange(first, end, dtype=torch.float32) + 0.5) - 0.5
    index = position.floor()
    t = position - index
    a = CUBIC

    def near(x: Tensor) -> Tensor:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: Tensor) -> Tensor:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    indices = index.long() + torch.arange(-1, 3)[:, None]
    weights = torch.stack([far(t + 1), near(t), near(1 - t), far(2 - t)])
    return Taps(indices.clamp(0, source - 1), weights)


def aligned_source(
    region: Region, size: Size, source: Size, *, taps: TapsOfRows = aligned_taps
) -> Region:
    """Return the region of a map of size ``source`` that ``region`` of one of ``size`` reads."""
    rows = taps(region.top, region.bottom, source[0], size[0])
    columns = taps(region.left, region.right, source[1], size[1])
    return Region(*rows.span(), *columns.span())


def resize_region(
    maps: Float[Tensor, "batch channel _ _"],
    covered: Region,
    source: Size,
    region: Region,
    size: Size,
    *,
    taps: TapsOfRows = aligned_taps,
) -> Float[Tensor, "batch channel height width"]:
    """Return a part of maps that are resized bilinearly.

    Args:
        maps: the part of them that :func:`aligned_source` names, or more.
        covered: where that part lies.
        source: size of the whole maps.
        region: wanted of the resized maps.
        size: of the whole resized maps.
        taps: :func:`aligned_taps` or :func:`area_taps`, here and there.
    """
    if source == size:
        return region.cut(maps, covered)
    rows = taps(region.top, region.bottom, source[0], size[0])
    columns = taps(region.left, region.right, source[1], size[1])
    return sample(maps, covered, rows, columns)


def sample(
    maps: Float[Tensor, "batch channel _ _"], covered: Region, rows: Taps, columns: Taps
) -> Float[Tensor, "batch channel height width"]:
    """Weigh the rows and columns of maps; only what is read of them is touched."""
    used = Region(*rows.span(), *columns.span())
    part = used.cut(maps, covered)
    for dim, taps, first in ((3, columns, used.left), (2, rows, used.top)):
        index = (taps.index - first).to(maps.device)
        weight = taps.weight.to(maps)
        if dim == 2:
            weight = weight[:, :, None]
        total = part.index_select(dim, index[0]) * weight[0]
        for number in range(1, len(index)):
            total += part.index_select(dim, index[number]) * weight[number]
        part = total
    return part


def shrink_side(side: int | torch.SymInt, shrink: float) -> int:
    """Return the side of an image that is made smaller, in whole pixels.

    An exported graph, whose sides are symbols, computes it in integers: the fraction is so near to
    the factor that every side up to 65,535 px becomes what it is here.
    """
    if isinstance(side, int):
        return max(int(side / shrink), 1)
    side = side * math.ceil(FRACTION / shrink) // FRACTION
    smaller: int = torch.sym_max(side, 1)  # type: ignore[no-untyped-call]
    return smaller


def size_at(size: Size, scale: float) -> Size:
    """Return the size of an image that is made smaller by a factor, or enlarged by one below 1."""
    return _side_at(size[0], scale), _side_at(size[1], scale)


def _side_at(side: int | torch.SymInt, scale: float) -> int:
    if isinstance(side, int):
        return max(round(side / scale), 1)
    rounded = (2 * side * math.ceil(FRACTION / scale) + FRACTION) // (2 * FRACTION)
    larger: int = torch.sym_max(rounded, 1)  # type: ignore[no-untyped-call]
    return larger


def resize_image(
    image: Float[Tensor, "batch 1 _ _"], size: Size
) -> Float[Tensor, "batch 1 height width"]:
    """Return grey images of 0..1 in another size, pixel areas aligned: smoothed if made smaller."""
    if image.shape[2:] == torch.Size(size):
        return image
    enlarge = size[0] > image.shape[2]
    mode = "bicubic" if enlarge else "bilinear"
    resized = F.interpolate(image, size, mode=mode, antialias=not enlarge, align_corners=False)
    return resized.clamp(0, 1) if enlarge else resized
