"""Views of a whole image: rotated, scaled, tilted and relit, with the map from the image.

The pairs of training.pairs are small crops, which hold whole keypoints but not whole patches; the
descriptor needs the image around them. Each view is a pure function of its random generator.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rekd_hloc.geometry import rotation_about

Image = NDArray[np.uint8]
"""An image in colour or grey."""
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class WarpConfig:
    """How the views of an image are drawn: geometry, then photometric augmentation."""

    scale_range: tuple[float, float] = (0.6, 1.6)
    """Log-uniform factor of size."""
    max_angle_deg: float = 180.0
    """The rotation of an ordinary view is uniform in +- this."""
    upright_angle_deg: float = 15.0
    """The rotation of a view for upright patches is uniform in +- this."""
    max_stretch: float = 1.35
    """Largest ratio between the scales along two axes, log-uniform from 1."""
    perspective: float = 0.15
    """Largest change of scale across half the image by perspective."""
    max_area: float = 1.3
    """Largest area of the view, as a multiple of the image's."""
    gamma: tuple[float, float] = (0.6, 1.6)
    """Log-uniform exponent on pixel values."""
    contrast: tuple[float, float] = (0.6, 1.3)
    """Uniform factor on pixel values."""
    brightness: float = 0.15
    """Largest offset, as a share of white."""
    shading: float = 0.3
    """Largest change of brightness from one side of the view to the other."""
    blur_px: float = 1.2
    """Largest sigma of a Gaussian blur, on half of the views."""
    noise: float = 6.0
    """Largest standard deviation of added noise, grey levels."""
    jpeg_quality: int = 40
    """Lowest JPEG quality, on half of the views."""

    def __post_init__(self) -> None:
        for name in ("scale_range", "gamma", "contrast"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two positive numbers in order, got {low}, {high}")
        if not 0 <= self.perspective < 0.5:
            raise ValueError(f"perspective must be in [0, 0.5), got {self.perspective}")


@dataclass(frozen=True)
class View:
    """A view in grey and the map ``view_from_image``; ``is_upright`` if it is hardly rotated."""

    grey: Image
    view_from_image: NDArray[np.float64]
    is_upright: bool


def plain_view(image: Image) -> View:
    """Return the image itself as a view."""
    return View(_grey(image, np.asarray(LUMA)), np.eye(3), is_upright=True)


def draw_view(rng: np.random.Generator, image: Image, config: WarpConfig, *, upright: bool) -> View:
    """Draw a view of an image (RGB): a random homography, then photometric augmentation."""
    view_from_image, size = draw_map(rng, image, config, upright)
    weights = rng.dirichlet(8 * np.asarray(LUMA) + 1)
    fine = np.diag([2.0, 2.0, 1.0])
    fine[:2, 2] = 0.5  # pixel centres of an image of twice the size
    warped = cv2.warpPerspective(
        _grey(image, weights),
        fine @ view_from_image,
        (2 * size[0], 2 * size[1]),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    small = cv2.resize(warped, size, interpolation=cv2.INTER_AREA)
    return View(augment_photometric(rng, np.asarray(small), config), view_from_image, upright)


def draw_tilt(
    rng: np.random.Generator, max_stretch: float, slope: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Draw a 3x3 map that stretches along a random axis and tilts, unrotated at the origin.

    Args:
        rng: source of both.
        max_stretch: largest ratio of the scales along two axes, log-uniform from 1.
        slope: largest change of scale by perspective for one unit along x and along y.
    """
    stretch = math.exp(rng.uniform(0, math.log(max_stretch)) / 2)
    along = rotation_about(rng.uniform(0, math.pi), (0.0, 0.0)).numpy()
    tilt = np.eye(3)
    tilt[2, :2] = rng.uniform(-1, 1, 2) * slope
    return np.asarray(along @ np.diag([stretch, 1 / stretch, 1.0]) @ along.T @ tilt)


def draw_map(
    rng: np.random.Generator, image: Image, config: WarpConfig, upright: bool
) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Draw a homography of an image, and the width and height of the view that it gives."""
    height, width = image.shape[:2]
    centre = ((width - 1) / 2, (height - 1) / 2)
    limit = config.upright_angle_deg if upright else config.max_angle_deg
    angle = math.radians(rng.uniform(-limit, limit))
    scale = math.exp(rng.uniform(*np.log(config.scale_range)))
    half = 0.5 * np.array([width, height])
    tilt = draw_tilt(rng, config.max_stretch, config.perspective / half)
    to_centre = np.eye(3)
    to_centre[:2, 2] = -np.array(centre)
    rotation = rotation_about(angle, (0.0, 0.0), scale).numpy()
    linear = rotation @ tilt @ to_centre
    corners = np.array([[0, width - 1, width - 1, 0], [0, 0, height - 1, height - 1], [1.0] * 4])
    moved = linear @ corners
    low, high = (moved[:2] / moved[2]).min(axis=1), (moved[:2] / moved[2]).max(axis=1)
    longest = math.sqrt(config.max_area * width * height)
    size = np.minimum(np.ceil(high - low), round(longest)).astype(int).clip(min=32)
    slack = np.maximum(high - low - size, 0)
    shift = np.eye(3)
    shift[:2, 2] = -(low + rng.uniform(0.25, 0.75, 2) * slack)
    return shift @ linear, (int(size[0]), int(size[1]))


def _grey(image: Image, weights: NDArray[np.float64]) -> Image:
    return np.rint(image.astype(np.float32) @ weights.astype(np.float32)).clip(0, 255).astype("u1")


def augment_photometric(rng: np.random.Generator, grey: Image, config: WarpConfig) -> Image:
    """Change the light, then add blur, noise and compression, in a camera's order."""
    gamma = math.exp(rng.uniform(*np.log(config.gamma)))
    values = (grey.astype(np.float32) / 255) ** gamma
    values = values * rng.uniform(*config.contrast)
    values += rng.uniform(-config.brightness, config.brightness)
    height, width = grey.shape
    slope = rng.uniform(-config.shading, config.shading, 2)
    values *= 1 + slope[0] * np.linspace(-0.5, 0.5, width)[None, :].astype(np.float32)
    values *= 1 + slope[1] * np.linspace(-0.5, 0.5, height)[:, None].astype(np.float32)
    if config.blur_px > 0 and rng.random() < 0.5:
        sigma = rng.uniform(0.05, config.blur_px)
        values = np.asarray(cv2.GaussianBlur(values, (0, 0), sigma))
    if config.noise > 0:
        spread = rng.uniform(0, config.noise) / 255
        values = values + rng.normal(0, spread, values.shape)
    result = np.rint(np.asarray(values) * 255).clip(0, 255).astype(np.uint8)
    return compress_at_random(rng, result, config.jpeg_quality)


def compress_at_random(rng: np.random.Generator, grey: Image, lowest_quality: int) -> Image:
    """Put an image through JPEG with probability one half; a lowest quality of 100 never does."""
    if lowest_quality >= 100 or rng.random() >= 0.5:
        return grey
    quality = int(rng.integers(lowest_quality, 100))
    _, code = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(code, cv2.IMREAD_GRAYSCALE), dtype=np.uint8)
