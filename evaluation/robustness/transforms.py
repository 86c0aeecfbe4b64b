"""Transforms of an image whose effect on points is known: rotation, scale, blur.

A rotated image lies whole on a canvas that is large enough, and is moved by half a pixel: so every
angle is resampled alike, and angles of 0 and 90 degrees get no better image than the others.
"""

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from rekd_hloc.geometry import resize_matrix, rotation_about

TransformKind = Literal["rotation", "scale", "gaussian", "motion"]
KINDS: tuple[TransformKind, ...] = ("rotation", "scale", "gaussian", "motion")
UNITS = {
    "rotation": "angle, degrees (clockwise)",
    "scale": "size of the second image over the first",
    "gaussian": "standard deviation of the blur, px",
    "motion": "length of the motion, px",
}
MOTION_DIRECTION_DEG = 30.0
"""Direction of the motion, from +x towards +y: no detector's axis."""
FINE = 16
"""Samples of the motion for each pixel of its length."""

Image = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class TransformedImage:
    """An image after a transform, and the map of its pixels."""

    image: Image
    transformed_from_image: Float[Tensor, "3 3"]


def default_values(kind: TransformKind, step_deg: float = 10.0) -> list[float]:
    """Return the values to measure at.

    Rotation: a full one in steps; scale: 0.5..2; Gaussian: sigma 0..4 px; motion: 0..21 px.
    """
    if kind == "rotation":
        return [float(angle) for angle in np.arange(0.0, 360.0, step_deg)]
    if kind == "scale":
        return [2.0 ** (number / 4) for number in range(-4, 5)]
    if kind == "gaussian":
        return [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0]
    return [0.0, 3.0, 5.0, 9.0, 13.0, 17.0, 21.0]


def transform_image(
    image: Image, kind: TransformKind, value: float, *, half_pixel: bool = True
) -> TransformedImage:
    """Apply one transform.

    Args:
        image: RGB bytes, not changed.
        kind: of the transform.
        value: degrees clockwise, factor of size, sigma in pixels, or length in pixels.
        half_pixel: move a rotated image by half a pixel, see the module's docstring.
    """
    if kind == "rotation":
        return rotate_image(image, math.radians(value), half_pixel=half_pixel)
    if kind == "scale":
        return scale_image(image, value)
    unmoved = torch.eye(3, dtype=torch.float64)
    blurred = blur_gaussian(image, value) if kind == "gaussian" else blur_motion(image, value)
    return TransformedImage(blurred, unmoved)


def rotate_image(image: Image, angle: float, *, half_pixel: bool = True) -> TransformedImage:
    """Rotate the whole image, on a canvas of its mean colour; angle in radians, clockwise."""
    height, width = image.shape[:2]
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    # the canvas has two pixels to spare for the half pixel and for rounding
    size = math.ceil(width * cos + height * sin) + 2, math.ceil(width * sin + height * cos) + 2
    matrix = rotation_about(angle, ((width - 1) / 2, (height - 1) / 2)).numpy().copy()
    matrix[0, 2] += (size[0] - width) / 2
    matrix[1, 2] += (size[1] - height) / 2
    whole = np.floor(matrix[:2, 2] + 1e-9)
    matrix[:2, 2] = whole + 0.5 if half_pixel else np.rint(matrix[:2, 2])
    rotated = cv2.warpAffine(
        image,
        matrix[:2],
        size,
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=[float(value) for value in image.mean(axis=(0, 1))],
    )
    return TransformedImage(np.asarray(rotated, dtype=np.uint8), torch.from_numpy(matrix))


def scale_image(image: Image, factor: float) -> TransformedImage:
    """Resize an image; areas are averaged where it gets smaller."""
    height, width = image.shape[:2]
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(image, size, interpolation=interpolation)
    return TransformedImage(
        np.asarray(resized, dtype=np.uint8), resize_matrix((width, height), size)
    )


def blur_gaussian(image: Image, sigma_px: float) -> Image:
    """Convolve with a Gaussian; a sigma of 0 changes nothing."""
    if sigma_px <= 0:
        return image.copy()
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px), dtype=np.uint8)


def blur_motion(image: Image, length_px: float) -> Image:
    """Convolve with a straight line of that length, centred, so that nothing is moved."""
    if length_px <= 0:
        return image.copy()
    kernel = motion_kernel(length_px)
    return np.asarray(cv2.filter2D(image, -1, kernel), dtype=np.uint8)


def motion_kernel(length_px: float) -> Float[np.ndarray, "side side"]:
    """Return a line through the centre as a kernel of sum 1, drawn with bilinear weights."""
    radius = math.ceil(length_px / 2) + 1
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1))
    direction = math.radians(MOTION_DIRECTION_DEG)
    count = math.ceil(length_px * FINE) | 1
    along = (np.arange(count) - (count - 1) / 2) * (length_px / count)
    x, y = radius + along * math.cos(direction), radius + along * math.sin(direction)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right_share, bottom_share = x - left, y - top
    for dx, x_share in ((0, 1 - right_share), (1, right_share)):
        for dy, y_share in ((0, 1 - bottom_share), (1, bottom_share)):
            np.add.at(kernel, (top + dy, left + dx), x_share * y_share)
    return np.asarray(kernel / kernel.sum())
