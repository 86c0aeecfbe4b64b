"""Least-squares matching: the affine map between two patches, to hundredths of a pixel.

Gruen, "Adaptive least squares correlation", 1985, in the inverse compositional form of Baker and
Matthews, "Lucas-Kanade 20 years on", 2004. Two matched keypoints say where to start: position,
scale and angle of both make a similarity transform. Shift (2), affine map (4), gain and offset are
then estimated together. What does not end in a clear and near minimum is left as it was.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rekd_hloc.refinement.pyramid import ImagePyramid
from rekd_hloc.types import Keypoints

RADIUS = 10
"""Samples from the centre of a window to its sides."""
SIGMA = 5.0
"""Of the window's weights, in samples."""
STEP = 0.5
"""Distance of two samples for a keypoint of scale 1, in pixels; but never below one pixel."""
COARSE = 2.0
"""Distance of samples of the first pass, in those of the second."""
MAX_ITERATIONS = 15
STOP_PX = 0.01
"""An update below it is the last one."""
MIN_ZNCC = 0.8
"""Least zero-mean normalised cross-correlation of an accepted alignment."""
MAX_SHIFT = 2.0
"""Largest accepted shift of a keypoint of scale 1, in pixels."""
MAX_STRETCH = 1.8
"""Largest accepted factor by which the affine map departs from the similarity transform."""
MAX_STD = 0.3
"""Largest accepted standard deviation of the position for a keypoint of scale 1, in pixels."""
MAX_SELF_ZNCC = 0.9
"""A patch that is as similar to itself, elsewhere within reach, is a repeated one."""
RIDGE = 1e-6
"""Added to the normal matrix, relative to its mean diagonal, so that flat patches can be solved."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Say where the points of image a are in image b.

    Attributes:
        shift: from the keypoint of b to the point of b, in pixels; zero where not refined.
        affine: of the plane about the keypoints, from pixels of a to pixels of b.
        zncc: correlation of both patches in the end, in [-1, 1].
        covariance: of the shift, in square pixels of b.
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
        ValueError: there are not as many keypoints in b as in a.
    """
    if len(frames_a) != len(frames_b):
        raise ValueError(f"frames must match, got {len(frames_a)} and {len(frames_b)}")
    if affine is None:
        affine = similarity_of(frames_a, frames_b)
    start = _State(affine.clone(), frames_b.xy.new_zeros(len(frames_b), 2))
    window = _Window.of(frames_a, frames_b)
    before, _, _ = _correlate(pyramid_a, pyramid_b, frames_a, frames_b, window, start)
    state = start
    for factor in (COARSE, 1.0):
        state, solution = _solve(
            pyramid_a, pyramid_b, frames_a, frames_b, window.coarser(factor), state
        )
    after, residual, is_inside = _correlate(pyramid_a, pyramid_b, frames_a, frames_b, window, state)
    covariance = _covariance(solution, residual, state, window)
    is_refined = is_inside & solution.is_stopped & (after >= MIN_ZNCC) & (after > before)
    is_refined &= state.shift.norm(dim=1) <= MAX_SHIFT * frames_b.scale
    is_refined &= _largest_std(covariance) <= MAX_STD * frames_b.scale
    is_refined &= _stretch(start.affine, state.affine) <= MAX_STRETCH
    is_refined &= ~_is_repeated(pyramid_a, frames_a, window)
    keep = is_refined[:, None]
    return Alignment(
        shift=torch.where(keep, state.shift, 0.0),
        affine=torch.where(keep[..., None], state.affine, start.affine),
        zncc=after,
        covariance=covariance,
        is_refined=is_refined,
    )


def similarity_of(a: Keypoints, b: Keypoints) -> Float[Tensor, "match 2 2"]:
    """Return the maps of the plane, from a to b, that the frames of matched keypoints give."""
    ratio, angle = b.scale / a.scale, b.angle - a.angle
    cos, sin = ratio * angle.cos(), ratio * angle.sin()
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], dim=1)


@dataclass(frozen=True, eq=False)
class _State:
    """The current estimate: a step u from the keypoint of a is a step affine u + shift in b."""

    affine: Float[Tensor, "match 2 2"]
    shift: Float[Tensor, "match 2"]


@dataclass(frozen=True, eq=False)
class _Window:
    """Samples about the keypoints of a, in their own frames.

    Attributes:
        offsets: in samples, for all keypoints, shape (sample, 2).
        weights: of the samples, with sum 1.
        axes: columns are the frame's axes in pixels of a, one sample long.
        step_a: length of a sample in pixels of a; step_b: in pixels of b.
    """

    offsets: Float[Tensor, "sample 2"]
    weights: Float[Tensor, " sample"]
    axes: Float[Tensor, "match 2 2"]
    step_a: Float[Tensor, " match"]
    step_b: Float[Tensor, " match"]

    @classmethod
    def of(cls, a: Keypoints, b: Keypoints, radius: int = RADIUS) -> "_Window":
        line = torch.arange(-radius, radius + 1, dtype=a.xy.dtype, device=a.xy.device)
        y, x = torch.meshgrid(line, line, indexing="ij")
        offsets = torch.stack([x, y], dim=-1).reshape(-1, 2)
        weights = torch.exp(-offsets.square().sum(dim=1) / (2 * SIGMA**2))
        unit = torch.maximum(1 / a.scale, 1 / b.scale).clamp(min=STEP)
        step_a, step_b = unit * a.scale, unit * b.scale
        cos, sin = step_a * a.angle.cos(), step_a * a.angle.sin()
        axes = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], dim=1)
        return cls(offsets, weights / weights.sum(), axes, step_a, step_b)

    def coarser(self, factor: float) -> "_Window":
        """Return the window with samples that are so many times as far apart."""
        return _Window(
            self.offsets, self.weights, self.axes * factor, self.step_a * factor,
            self.step_b * factor,
        )  # fmt: skip

    def steps(self) -> Float[Tensor, "match sample 2"]:
        """Return the samples as steps from the keypoint in pixels of a."""
        return self.offsets @ self.axes.transpose(1, 2)


@dataclass(frozen=True, eq=False)
class _Solution:
    """What the last pass leaves: the inverse normal matrix, and who came to rest."""

    inverse: Float[Tensor, "match 8 8"]
    is_stopped: Bool[Tensor, " match"]


def _solve(
    pyramid_a: ImagePyramid,
    pyramid_b: ImagePyramid,
    a: Keypoints,
    b: Keypoints,
    window: _Window,
    state: _State,
) -> tuple[_State, _Solution]:
    """Return the state after Gauss-Newton steps, all matches at once."""
    template = _normalised(_read_a(pyramid_a, a, window)[0], window.weights)
    jacobian = _jacobian(pyramid_a, a, window, template)
    weighted = jacobian * window.weights[:, None]
    inverse = torch.linalg.inv(_ridged(jacobian.transpose(1, 2) @ weighted))
    affine, shift = state.affine.clone(), state.shift.clone()
    is_stopped = torch.zeros(len(a), dtype=torch.bool, device=a.xy.device)
    for _ in range(MAX_ITERATIONS):
        active = torch.nonzero(~is_stopped)[:, 0]
        if len(active) == 0:
            break
        here = _State(affine[active], shift[active])
        image, _ = _read_b(pyramid_b, b[active], _rows(window, active), here)
        residual = _normalised(image, window.weights) - template[active]
        step = (inverse[active] @ (weighted[active].transpose(1, 2) @ residual[..., None]))[..., 0]
        step = step / (1 + step[:, 6:7].clamp(min=-0.5))
        affine[active], shift[active] = _compose(here, step, window.axes[active])
        moved = (shift[active] - here.shift).norm(dim=1)
        is_stopped[active] = moved < STOP_PX * window.step_b[active]
    return _State(affine, shift), _Solution(inverse, is_stopped)


def _compose(
    state: _State, step: Float[Tensor, "match 8"], axes: Float[Tensor, "match 2 2"]
) -> tuple[Tensor, Tensor]:
    """Return the map after the inverse of a small map of the template's plane.

    The template moved by u -> u + D u + d, in samples, looks like the image: the map from the
    template to the image is the old one after the inverse of that.
    """
    change = torch.eye(2, device=step.device, dtype=step.dtype) + step[:, 2:6].reshape(-1, 2, 2)
    inverse = torch.linalg.inv(change)
    to_b = state.affine @ axes
    shift = state.shift - (to_b @ inverse @ step[:, :2, None])[..., 0]
    return to_b @ inverse @ torch.linalg.inv(axes), shift


def _jacobian(
    pyramid: ImagePyramid, a: Keypoints, window: _Window, template: Float[Tensor, "match sample"]
) -> Float[Tensor, "match sample 8"]:
    """Return derivatives of the normalised template by shift, affine map, gain and offset.

    The gradient is taken between samples, half a sample to both sides.
    """
    values, _ = _read_a(pyramid, a, window)
    scale = _deviation(values, window.weights)
    slopes = []
    for axis in range(2):
        half = 0.5 * window.axes[:, None, :, axis]
        ends = [pyramid.read(a.xy[:, None] + window.steps() + s * half, window.step_a)[0]
                for s in (1, -1)]  # fmt: skip
        slopes.append((ends[0] - ends[1]) / scale)
    x, y = window.offsets.unbind(-1)
    gx, gy = slopes
    return torch.stack(
        [gx, gy, gx * x, gx * y, gy * x, gy * y, template, torch.ones_like(gx)], dim=-1
    )


def _read_a(pyramid: ImagePyramid, a: Keypoints, window: _Window) -> tuple[Tensor, Tensor]:
    return pyramid.read(a.xy[:, None] + window.steps(), window.step_a)


def _read_b(
    pyramid: ImagePyramid, b: Keypoints, window: _Window, state: _State
) -> tuple[Tensor, Tensor]:
    steps = window.steps() @ state.affine.transpose(1, 2)
    return pyramid.read(b.xy[:, None] + state.shift[:, None] + steps, window.step_b)


def _rows(window: _Window, rows: Tensor) -> _Window:
    return _Window(
        window.offsets, window.weights, window.axes[rows], window.step_a[rows], window.step_b[rows]
    )


def _normalised(values: Tensor, weights: Tensor) -> Tensor:
    mean = (values * weights).sum(dim=1, keepdim=True)
    return (values - mean) / _deviation(values, weights)


def _deviation(values: Tensor, weights: Tensor) -> Float[Tensor, "match 1"]:
    mean = (values * weights).sum(dim=1, keepdim=True)
    return ((values - mean).square() * weights).sum(dim=1, keepdim=True).sqrt().clamp(min=1e-6)


def _correlate(
    pyramid_a: ImagePyramid,
    pyramid_b: ImagePyramid,
    a: Keypoints,
    b: Keypoints,
    window: _Window,
    state: _State,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ZNCC, mean squared residual of normalised patches, and who lies in both images."""
    values_a, inside_a = _read_a(pyramid_a, a, window)
    values_b, inside_b = _read_b(pyramid_b, b, window, state)
    patch_a, patch_b = (_normalised(v, window.weights) for v in (values_a, values_b))
    zncc = (patch_a * patch_b * window.weights).sum(dim=1)
    residual = ((patch_b - zncc[:, None] * patch_a).square() * window.weights).sum(dim=1)
    return zncc, residual, inside_a & inside_b


def _covariance(
    solution: _Solution, residual: Tensor, state: _State, window: _Window
) -> Float[Tensor, "match 2 2"]:
    """Return the covariance of the shift in square pixels of b.

    The residual's variance spreads over as many independent samples as the weights amount to.
    """
    num_samples = 1 / window.weights.square().sum()
    variance = residual / (num_samples - 8)
    to_b = state.affine @ window.axes
    return to_b @ (solution.inverse[:, :2, :2] * variance[:, None, None]) @ to_b.transpose(1, 2)


def _largest_std(covariance: Float[Tensor, "match 2 2"]) -> Float[Tensor, " match"]:
    half_trace = (covariance[:, 0, 0] + covariance[:, 1, 1]) / 2
    half_gap = (covariance[:, 0, 0] - covariance[:, 1, 1]) / 2
    return (half_trace + torch.hypot(half_gap, covariance[:, 0, 1])).clamp(min=0).sqrt()


def _stretch(start: Tensor, end: Tensor) -> Float[Tensor, " match"]:
    """Return by which factor the end departs most from the start, over all directions."""
    change = end @ torch.linalg.inv(start)
    values = torch.linalg.svdvals(change).clamp(min=1e-6)
    return torch.maximum(values[:, 0], 1 / values[:, 1])


def _is_repeated(pyramid: ImagePyramid, a: Keypoints, window: _Window) -> Bool[Tensor, " match"]:
    """Say whether the patch looks like itself elsewhere, as far away as two shifts may reach."""
    center = _normalised(_read_a(pyramid, a, window)[0], window.weights)
    is_repeated = torch.zeros(len(a), dtype=torch.bool, device=a.xy.device)
    for radius in (5.0, 6.5, 8.0):
        for number in range(8):
            angle = math.pi * number / 8
            offset = radius * window.offsets.new_tensor([math.cos(angle), math.sin(angle)])
            moved = a.xy + (window.axes @ offset)
            values, _ = pyramid.read(moved[:, None] + window.steps(), window.step_a)
            zncc = (center * _normalised(values, window.weights) * window.weights).sum(dim=1)
            is_repeated |= zncc > MAX_SELF_ZNCC
    return is_repeated


def _ridged(normal: Float[Tensor, "match 8 8"]) -> Float[Tensor, "match 8 8"]:
    mean = normal.diagonal(dim1=1, dim2=2).mean(dim=1)
    return normal + RIDGE * mean[:, None, None].clamp(min=1e-6) * torch.eye(8).to(normal)
