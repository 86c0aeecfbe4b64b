"""From orientation logits to angles, and between angles and histogram bins.

Bin k of N is the direction 2 pi k / N counter-clockwise on the screen, as in e2cnn. Angles are
clockwise in image coordinates, so bin k is the angle -2 pi k / N. Nothing else in the detector
knows this.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from rekd_hloc.geometry import TWO_PI, wrap_angle


def angle_from_bin(position: Float[Tensor, "*shape"], num_bins: int) -> Float[Tensor, "*shape"]:
    """Return the angle, in [0, 2 pi), of a (fractional) bin position."""
    return wrap_angle(-position * (TWO_PI / num_bins))


def bin_from_angle(angle: Float[Tensor, "*shape"], num_bins: int) -> Float[Tensor, "*shape"]:
    """Return the fractional bin position, in [0, num_bins), of an angle; nothing is rounded."""
    position = torch.remainder(-angle * (num_bins / TWO_PI), num_bins)
    return torch.where(position >= num_bins, torch.zeros_like(position), position)


def read_angles(
    logits: Float[Tensor, "keypoint bin"], *, sub_bin: bool = True
) -> Float[Tensor, " keypoint"]:
    """Return the angle of the highest peak of each histogram; see :func:`find_peak`."""
    return angle_from_bin(find_peak(logits, sub_bin=sub_bin), logits.shape[1])


def find_peak(
    logits: Float[Tensor, "keypoint bin"], *, sub_bin: bool = True
) -> Float[Tensor, " keypoint"]:
    """Position of the histogram's highest bin, in [0, bin).

    With ``sub_bin``, the cosine through the highest logit and its two neighbours gives the position
    between bins; it is exact where the histogram is a von Mises density (logits = k cos(t - t0)).
    """
    best = logits.argmax(dim=1)
    return _refine_bins(logits, best) if sub_bin else best.to(logits.dtype)


def find_second_peak(
    logits: Float[Tensor, "keypoint bin"],
) -> tuple[Float[Tensor, " keypoint"], Float[Tensor, " keypoint"]]:
    """Find the second highest local maximum of each histogram.

    Returns:
        Its position as :func:`find_peak` gives it, and its probability as a share of the highest
        bin's, in [0, 1]; 0 where there is no second maximum, and the position is the first's.
    """
    is_maximum = (logits >= logits.roll(1, 1)) & (logits > logits.roll(-1, 1))
    first = logits.argmax(dim=1, keepdim=True)
    others = logits.masked_fill(~is_maximum, -torch.inf).scatter(1, first, -torch.inf)
    height, second = others.max(dim=1)
    exists = height.isfinite()
    share = (height - logits.amax(dim=1)).exp()
    best = torch.where(exists, second, first[:, 0])
    return _refine_bins(logits, best), torch.where(exists, share, torch.zeros_like(share))


def _refine_bins(
    logits: Float[Tensor, "keypoint bin"], best: Int64[Tensor, " keypoint"]
) -> Float[Tensor, " keypoint"]:
    """Fractional positions of maxima, from the cosine through each and its neighbours."""
    num_bins = logits.shape[1]
    here, left, right = (
        logits.gather(1, ((best + step) % num_bins)[:, None])[:, 0] for step in (0, -1, 1)
    )
    step = TWO_PI / num_bins
    sine = (right - left) / (2 * math.sin(step))
    cosine = (2 * here - left - right) / (2 * (1 - math.cos(step)))
    offset = torch.where(cosine > 0, torch.atan2(sine, cosine) / step, torch.zeros_like(sine))
    return torch.remainder(best.to(logits.dtype) + offset.clamp(-0.5, 0.5), num_bins)


def read_logits(
    levels: list[Float[Tensor, "1 bin _ _"]],
    xy: Float[Tensor, "keypoint 2"],
    image_size: tuple[int, int],
    *,
    align_corners: bool = True,
) -> Float[Tensor, "keypoint bin"]:
    """Sum over inner levels of the logits at each point, read bilinearly.

    Args:
        levels: logits of each inner level at its own size, see ``Rekd.level_maps``.
        xy: points in pixels of the image that the levels were made from.
        image_size: (width, height) of that image.
        align_corners: the levels' corners coincide, not the areas of their pixels.
    """
    return read_batch_logits(levels, xy[None], image_size, align_corners=align_corners)[0]


def read_batch_logits(
    levels: list[Float[Tensor, "batch bin _ _"]],
    xy: Float[Tensor, "batch keypoint 2"],
    image_size: tuple[int, int],
    *,
    align_corners: bool = True,
) -> Float[Tensor, "batch keypoint bin"]:
    """Return what :func:`read_logits` does, of as many points in each of several images."""
    along = zip(xy.unbind(-1), image_size, strict=True)
    if align_corners:
        fractions = [2 * place / max(side - 1, 1) - 1 for place, side in along]
    else:
        fractions = [(2 * place + 1) / side - 1 for place, side in along]
    grid = torch.stack(fractions, dim=-1)[:, None]
    total = torch.zeros(*xy.shape[:2], levels[0].shape[1], device=xy.device)
    for level in levels:
        read = F.grid_sample(
            level, grid.to(level.dtype), align_corners=align_corners, padding_mode="border"
        )
        total += read[:, :, 0].transpose(1, 2)
    return total


def roll_logits(
    logits: Float[Tensor, "batch bin height width"], angle: Float[Tensor, " batch"]
) -> Float[Tensor, "batch bin height width"]:
    """Return the logits that the scene would have after a rotation by ``angle``, by Fourier shift.

    Whole bins are exact rolls; between bins the band-limited periodic function through the bins is
    read, so nothing is truncated.
    """
    num_bins = logits.shape[1]
    shift = -angle * (num_bins / TWO_PI)
    bins = torch.arange(num_bins, dtype=logits.dtype, device=logits.device)
    lag = bins[None, :, None] - bins[None, None, :] - shift[:, None, None]
    return torch.einsum("bij,bjhw->bihw", _periodic_sinc(lag, num_bins), logits)


def _periodic_sinc(lag: Tensor, num_bins: int) -> Tensor:
    # Dirichlet kernel of an even number of samples (the highest frequency counted half each side)
    frequencies = torch.arange(1, num_bins // 2, dtype=lag.dtype, device=lag.device)
    waves = torch.cos(TWO_PI / num_bins * lag[..., None] * frequencies).sum(dim=-1)
    nyquist = torch.cos(math.pi * lag)
    return (1 + 2 * waves + nyquist) / num_bins
