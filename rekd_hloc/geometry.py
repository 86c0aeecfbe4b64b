"""The conventions of the whole project, and how points and angles move under a homography.

* Integer coordinates are pixel centres: (0, 0) is the centre of the first pixel. COLMAP's image
  frame has its origin at that pixel's corner, so 0.5 is added exactly where COLMAP is met.
* Angles are radians in [0, 2 pi) from +x towards +y with y pointing down, which is clockwise on
  the screen, as in OpenCV and COLMAP. e2cnn's group elements and kornia's LAFs rotate the
  other way.
* A map is named ``dst_from_src`` and ``xy_in_dst = warp_points(dst_from_src, xy_in_src)``.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

TWO_PI = 2.0 * math.pi


def wrap_angle(angle: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Bring an angle in radians into [0, 2 pi)."""
    wrapped = torch.remainder(angle, TWO_PI)
    return torch.where(wrapped >= TWO_PI, torch.zeros_like(wrapped), wrapped)


def angle_difference(
    a: Float[Tensor, "*#shape"], b: Float[Tensor, "*#shape"]
) -> Float[Tensor, "..."]:
    """Return the signed shortest rotation from ``b`` to ``a``, in [-pi, pi) radians.

    Shapes are broadcast.
    """
    return wrap_angle(a - b + math.pi) - math.pi


def rotation_about(
    angle: float, centre_xy: tuple[float, float], scale: float = 1.0
) -> Float[Tensor, "3 3"]:
    """Return the similarity that rotates by ``angle``, clockwise in image coordinates, and scales
    about ``centre_xy``.
    """
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    x, y = centre_xy
    return torch.tensor(
        [
            [cos, -sin, x - cos * x + sin * y],
            [sin, cos, y - sin * x - cos * y],
            [0.0, 0.0, 1.0],
        ],
        dtype=torch.float64,
    )


def resize_matrix(src_size: tuple[int, int], dst_size: tuple[int, int]) -> Float[Tensor, "3 3"]:
    """Map pixel centres of an image of ``src_size`` (width, height) to a resized ``dst_size``.

    The image corners coincide (OpenCV's and hloc's rule), so ``x' = (x + 0.5) * s - 0.5``.

    Raises:
        ValueError: a side is below one pixel.
    """
    if min(*src_size, *dst_size) < 1:
        raise ValueError(f"sizes must be at least 1 x 1 px, got {src_size} and {dst_size}")
    sx, sy = dst_size[0] / src_size[0], dst_size[1] / src_size[1]
    return torch.tensor(
        [[sx, 0.0, 0.5 * sx - 0.5], [0.0, sy, 0.5 * sy - 0.5], [0.0, 0.0, 1.0]],
        dtype=torch.float64,
    )


def warp_points(
    dst_from_src: Float[Tensor, "3 3"], xy: Float[Tensor, "point 2"]
) -> Float[Tensor, "point 2"]:
    """Map points by a homography.

    The sum is made in the finer of the two dtypes and returned in that of ``xy``: float32 alone
    would displace a point of a 24-megapixel image by 2e-3 px. Points on the line that the
    homography sends to infinity come back as inf or nan, never as a wrong finite point.
    """
    homogeneous = _homogeneous(dst_from_src, xy)
    return (homogeneous[:, :2] / homogeneous[:, 2:]).to(xy.dtype)


def homography_jacobian(
    dst_from_src: Float[Tensor, "3 3"], xy: Float[Tensor, "point 2"]
) -> Float[Tensor, "point 2 2"]:
    """Return the homography's first-order map at each point: d(xy_in_dst) / d(xy_in_src)."""
    homogeneous = _homogeneous(dst_from_src, xy)
    h = dst_from_src.to(homogeneous)
    projected = homogeneous[:, :2] / homogeneous[:, 2:]
    jacobian = (h[:2, :2] - projected[:, :, None] * h[2, :2]) / homogeneous[:, 2, None, None]
    return jacobian.to(xy.dtype)


def _homogeneous(
    dst_from_src: Float[Tensor, "3 3"], xy: Float[Tensor, "point 2"]
) -> Float[Tensor, "point 3"]:
    if not xy.is_floating_point():
        raise ValueError(f"xy must have a floating-point dtype, got {xy.dtype}; call xy.float()")
    finer = torch.promote_types(dst_from_src.dtype, xy.dtype)
    h = dst_from_src.to(device=xy.device, dtype=finer)
    return xy.to(finer) @ h[:, :2].T + h[:, 2]


def warp_angles(
    dst_from_src: Float[Tensor, "3 3"],
    xy: Float[Tensor, "point 2"],
    angle: Float[Tensor, " point"],
) -> Float[Tensor, " point"]:
    """Return the direction that ``angle`` at ``xy`` has after the homography, in [0, 2 pi)."""
    direction = torch.stack([angle.cos(), angle.sin()], dim=1).to(xy.dtype)
    moved = (homography_jacobian(dst_from_src, xy) @ direction[:, :, None])[:, :, 0]
    return wrap_angle(torch.atan2(moved[:, 1], moved[:, 0]).to(angle.dtype))


def warp_scales(
    dst_from_src: Float[Tensor, "3 3"],
    xy: Float[Tensor, "point 2"],
    scale: Float[Tensor, " point"],
) -> Float[Tensor, " point"]:
    """Return the scales after the homography: times the square root of the local change of area."""
    area: Tensor = torch.linalg.det(homography_jacobian(dst_from_src, xy)).abs()
    return scale * area.sqrt()
