"""Least-squares matching: where the points of image a are in image b, to hundredths of a pixel.

Two matched keypoints say where to start: position, scale and angle of both make a similarity
transform. :mod:`rekd_hloc.refinement.least_squares` goes on from there, coarse to fine. What does
not end in a clear, near and single minimum is left as it was.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rekd_hloc.refinement.least_squares import (
    NUM_UNKNOWNS,
    TINY,
    Template,
    Window,
    estimate_warps,
)
from rekd_hloc.refinement.pyramid import ImagePyramid
from rekd_hloc.refinement.self_similarity import is_repeated
from rekd_hloc.types import Keypoints

RADIUS = 10
"""Samples from the centre of a window to its sides."""
STEP = 0.7
"""Distance of two samples for a keypoint of scale 1, in pixels; but never below one pixel of either
image."""
PASSES = ((2.0, 5), (1.0, 10))
"""Distance of samples in each pass, in those of the last, and its most iterations."""
BATCH = 512
"""Patches at once; changes memory only: 15 MB."""
MIN_ZNCC = 0.8
"""Least zero-mean normalised cross-correlation of an accepted alignment."""
MAX_SHIFT = 4.0
"""Largest accepted shift of a keypoint of scale 1, in pixels."""
MAX_STRETCH = 3.0
"""Largest accepted factor by which the affine map departs from the one it started from."""
MAX_STD = 0.3
"""Largest accepted standard deviation of the position for a keypoint of scale 1, in pixels."""
MIN_CONTRAST = 1 / 255
"""Least deviation of the grey values of a patch in 0..1: less is noise."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Say where the points of image a are in image b.

    Attributes:
        shift: from the keypoint of b to the point of b, in pixels; zero where not refined.
        affine: of the plane about the keypoints, from pixels of a to pixels of b; where not
            refined, the one it started from.
        zncc: correlation of both patches in the end, in [-1, 1].
        covariance: of the shift, in square pixels of b; not a number where not refined.
        is_refined: whether the alignment was accepted.
    """

    shift: Float[Tensor, "match 2"]
    affine: Float[Tensor, "match 2 2"]
    zncc: Float[Tensor, " match"]
    covariance: Float[Tensor, "match 2 2"]
    is_refined: Bool[Tensor, " match"]


@torch.no_grad()
def align_patches(
    pyramid_a: ImagePyramid,
    pyramid_b: ImagePyramid,
    frames_a: Keypoints,
    frames_b: Keypoints,
    affine: Float[Tensor, "match 2 2"] | None = None,
) -> Alignment:
    """Align the patches of image b to those of image a.

    Args:
        pyramid_a: of image a.
        pyramid_b: of image b, on the same device.
        frames_a: keypoints in a; row m matches row m of ``frames_b``.
        frames_b: keypoints in b.
        affine: maps of the plane to start from; by default those that the frames give.

    Raises:
        ValueError: there are not as many keypoints, or maps to start from, in b as in a.
    """
    start = similarity_of(frames_a, frames_b) if affine is None else affine
    if not len(frames_a) == len(frames_b) == len(start):
        counts = f"{len(frames_a)}, {len(frames_b)} and {len(start)}"
        raise ValueError(f"frames_a, frames_b and affine must be equally many, got {counts}")
    every = torch.arange(len(frames_a), device=frames_a.xy.device)
    parts = [
        _align_batch(pyramid_a, pyramid_b, frames_a[rows], frames_b[rows], start[rows])
        for rows in torch.split(every, BATCH)
    ]
    names = Alignment.__dataclass_fields__
    return Alignment(**{name: torch.cat([getattr(p, name) for p in parts]) for name in names})


def similarity_of(a: Keypoints, b: Keypoints) -> Float[Tensor, "match 2 2"]:
    """Return the maps of the plane, from a to b, that the frames of matched keypoints give."""
    return _rotations(b.scale / a.scale, b.angle - a.angle)


def _rotations(scale: Tensor, angle: Tensor) -> Float[Tensor, "match 2 2"]:
    cos, sin = scale * angle.cos(), scale * angle.sin()
    return torch.stack([cos, -sin, sin, cos], dim=1).reshape(-1, 2, 2)


def _align_batch(
    pyramid_a: ImagePyramid, pyramid_b: ImagePyramid, a: Keypoints, b: Keypoints, start: Tensor
) -> Alignment:
    ratio = torch.linalg.det(start).abs().sqrt().clamp(min=TINY)
    step = torch.maximum((STEP * a.scale).clamp(min=1.0), 1 / ratio)
    axes = _rotations(step, a.angle)
    window = Window.of(RADIUS, a.xy)
    center, affine = b.xy, start
    for factor, max_iterations in PASSES:
        level_a = pyramid_a.level_of(step * factor)
        level_b = pyramid_b.level_of(step * ratio * factor)
        template = Template.read(pyramid_a, a.xy, axes * factor, level_a, window)
        if factor == PASSES[0][0]:
            is_ambiguous = is_repeated(template.values, window)
        center, to_b, is_at_rest = estimate_warps(
            pyramid_b, template, window, center, affine @ axes * factor, level_b, max_iterations
        )
        affine = to_b @ torch.linalg.inv(axes * factor)
    first = window.read(pyramid_b, b.xy, start @ axes, level_b)
    last = window.read(pyramid_b, center, to_b, level_b)
    before = _correlate(template, window.normalise(first)[0], window)
    image, contrast = window.normalise(last)
    zncc = _correlate(template, image, window)
    covariance = _covariance(template, image, zncc, to_b, window)
    shift = center - b.xy
    is_refined = is_at_rest & ~is_ambiguous & (zncc >= MIN_ZNCC) & (zncc > before - TINY)
    is_refined &= torch.minimum(template.deviation, contrast) >= MIN_CONTRAST
    is_refined &= pyramid_a.contains(a.xy, axes, RADIUS)
    is_refined &= pyramid_b.contains(center, to_b, RADIUS)
    is_refined &= shift.norm(dim=1) <= MAX_SHIFT * b.scale
    is_refined &= _largest_std(covariance) <= MAX_STD * b.scale
    is_refined &= _stretch(affine @ torch.linalg.inv(start)) <= MAX_STRETCH
    keep = is_refined[:, None, None]
    return Alignment(
        shift=torch.where(keep[..., 0], shift, 0.0),
        affine=torch.where(keep, affine, start),
        zncc=zncc,
        covariance=torch.where(keep, covariance, torch.nan),
        is_refined=is_refined,
    )


def _correlate(template: Template, image: Tensor, window: Window) -> Float[Tensor, " match"]:
    return (template.values * image) @ window.weights


def _covariance(
    template: Template, image: Tensor, zncc: Tensor, axes: Tensor, window: Window
) -> Float[Tensor, "match 2 2"]:
    """Return the covariance of the shift in square pixels of b.

    Patches of deviation 1 that correlate by r leave a residual of variance 1 - r^2. It is taken for
    noise of as many independent samples as the weights amount to.
    """
    variance = (1 - zncc.square()) / (window.num_samples - NUM_UNKNOWNS)
    in_samples = template.inverse[:, :2, :2] * variance[:, None, None]
    return axes @ in_samples @ axes.transpose(1, 2)


def _largest_std(covariance: Float[Tensor, "match 2 2"]) -> Float[Tensor, " match"]:
    half_trace = (covariance[:, 0, 0] + covariance[:, 1, 1]) / 2
    half_gap = (covariance[:, 0, 0] - covariance[:, 1, 1]) / 2
    return (half_trace + torch.hypot(half_gap, covariance[:, 0, 1])).clamp(min=0).sqrt()


def _stretch(change: Float[Tensor, "match 2 2"]) -> Float[Tensor, " match"]:
    """Return by which factor a map of the plane stretches or shrinks most, over all directions."""
    squares = change.square().sum(dim=(1, 2))
    area = torch.linalg.det(change).abs()
    sums = (squares + 2 * area).sqrt(), (squares - 2 * area).clamp(min=0).sqrt()
    largest, smallest = (sums[0] + sums[1]) / 2, (sums[0] - sums[1]) / 2
    return torch.maximum(largest, 1 / smallest.clamp(min=TINY))
