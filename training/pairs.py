"""Synthetic pairs: a crop of an image, and the same place rotated, scaled, tilted and relit.

Pairs are drawn on the fly. Each is a pure function of (seed, index), so a run that is stopped and
resumed sees exactly the pairs that an uninterrupted one would have seen.
"""

import logging
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from rekd_hloc.geometry import rotation_about
from training.warps import Image, compress_at_random, draw_tilt

logger = logging.getLogger(__name__)

NUM_NAMED = 3
"""Skipped images named for each reason."""


@dataclass(frozen=True)
class PairConfig:
    """How a pair is drawn; the defaults are the paper's where it has one, and said where not."""

    crop_px: int = 192
    """Side of both crops (paper: 192)."""
    max_angle_deg: float = 180.0
    """The rotation is uniform in +- this (paper: 180)."""
    scale_range: tuple[float, float] = (1.0, 1.0)
    """Log-uniform factor of size between the two crops (paper: 1; its code has a flag)."""
    max_stretch: float = 1.0
    """Largest ratio of the scales along two axes, log-uniform from 1; a shear of s is a stretch
    of 1 + s to first order (paper: 1; its code has a flag for shear)."""
    perspective: float = 0.0
    """Largest change of scale across half the crop by perspective (paper: 0)."""
    zoom_range: tuple[float, float] = (1.0, 1.0)
    """Log-uniform factor on the image's size before cropping (paper: 1)."""
    centred: bool = False
    """Crop at the image's centre (paper) rather than anywhere the crop fits."""
    brightness: float = 36.0
    """Largest change of brightness, grey levels (paper: 36)."""
    contrast: tuple[float, float] = (0.5, 1.5)
    """Range of the factor on pixel values (paper)."""
    hue_deg: float = 36.0
    """Largest change of hue in degrees (paper: 18 of OpenCV's 180)."""
    saturation: tuple[float, float] = (0.5, 1.5)
    """Range of the factor on saturation (paper)."""
    blur_px: float = 0.0
    """Largest sigma of a Gaussian blur (paper: 0)."""
    noise: float = 0.0
    """Largest standard deviation of added noise, grey levels (paper: 0)."""
    jpeg_quality: int = 100
    """Lowest JPEG quality that a crop is put through; 100 switches it off (paper)."""
    min_texture: float = 0.25
    """Crops whose strongest horizontal edge, over their brightest pixel, is below are redrawn."""
    max_tries: int = 20
    """Draws before a crop without texture is taken after all."""

    def __post_init__(self) -> None:
        if self.crop_px < 48:
            raise ValueError(f"crop_px must be at least 48, got {self.crop_px}")
        for name in ("scale_range", "zoom_range"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two positive numbers in order, got {low}, {high}")
        if self.max_stretch < 1:
            raise ValueError(f"max_stretch must be at least 1, got {self.max_stretch}")
        if not 0 <= self.perspective < 0.5:
            raise ValueError(f"perspective must be in [0, 0.5), got {self.perspective}")


@dataclass(frozen=True)
class PairBatch:
    """Crops a and b in 0..1 (batch, 1, side, side), b_from_a (batch, 3, 3), angle (batch,) rad."""

    image_a: Float[Tensor, "batch 1 side side"]
    image_b: Float[Tensor, "batch 1 side side"]
    b_from_a: Float[Tensor, "batch 3 3"]
    angle: Float[Tensor, " batch"]


@dataclass
class ImageSet:
    """Images in memory that are large enough and have texture; the log says which are skipped.

    Attributes:
        images: those that can be used.
        skipped: the reason by path.

    Raises:
        ValueError: fewer than ``min_images`` can be used.
    """

    paths: Sequence[Path]
    config: PairConfig
    min_images: int = 2
    images: list[Image] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        needed = math.sqrt(2) * self.config.crop_px * _least_footprint(self.config)
        for path in self.paths:
            decoded = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_COLOR)
            if decoded is None:
                self.skipped[str(path)] = "not an image"
                continue
            image = np.asarray(decoded, dtype=np.uint8)
            if min(image.shape[:2]) < needed:
                self.skipped[str(path)] = f"short side {min(image.shape[:2])} < {needed:.0f} px"
            elif not _has_texture(image, self.config.min_texture):
                self.skipped[str(path)] = "no texture anywhere"
            else:
                self.images.append(image)
        if self.skipped:
            logger.warning("%d of %d images skipped", len(self.skipped), len(self.paths))
        _report_skipped(self.skipped, len(self.paths))
        if len(self.images) < self.min_images:
            raise ValueError(
                f"only {len(self.images)} of {len(self.paths)} images can be used, at least "
                f"{self.min_images} are needed; a crop of {self.config.crop_px} px needs a short "
                f"side of {needed:.0f} px"
            )

    def batch(self, seed: int, step: int, size: int) -> PairBatch:
        """Draw the pairs from number ``step * size`` on of the endless sequence of ``seed``."""
        pairs = [self.pair(seed, step * size + i) for i in range(size)]
        image_a, image_b, b_from_a, angle = zip(*pairs, strict=True)
        return PairBatch(
            image_a=torch.from_numpy(np.stack(image_a))[:, None].float() / 255,
            image_b=torch.from_numpy(np.stack(image_b))[:, None].float() / 255,
            b_from_a=torch.from_numpy(np.stack(b_from_a)).float(),
            angle=torch.tensor(angle, dtype=torch.float32),
        )

    def pair(self, seed: int, index: int) -> tuple[Image, Image, NDArray[np.float64], float]:
        """Draw one pair.

        Returns:
            The grey crops a and b (uint8), b_from_a, and the rotation of the content from a to b
            in radians, clockwise in image coordinates.
        """
        rng = np.random.default_rng([seed, index])
        for _ in range(self.config.max_tries):
            image = self.images[rng.integers(len(self.images))]
            a_from_image, b_from_image, angle = _draw_maps(rng, image, self.config)
            crop_a = _crop(image, a_from_image, self.config.crop_px)
            if _has_texture(crop_a, self.config.min_texture):
                break
        crop_b = _augment_color(rng, _crop(image, b_from_image, self.config.crop_px), self.config)
        b_from_a = b_from_image @ np.linalg.inv(a_from_image)
        grey_a, grey_b = (cv2.cvtColor(c, cv2.COLOR_BGR2GRAY) for c in (crop_a, crop_b))
        grey_a, grey_b = (
            _augment_quality(rng, np.asarray(g, dtype=np.uint8), self.config)
            for g in (grey_a, grey_b)
        )
        return grey_a, grey_b, b_from_a, angle


def _report_skipped(skipped: Mapping[str, str], num_images: int) -> None:
    """Log how many of all images are left out for which reason, and a few of their names."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for path, reason in skipped.items():
        by_reason[re.sub(r"\d+ <", "below", reason)].append(Path(path).name)
    for reason, names in sorted(by_reason.items()):
        more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
        shown = ", ".join(names[:NUM_NAMED]) + more
        logger.warning("skipped %d of %d images, %s: %s", len(names), num_images, reason, shown)


def _least_footprint(config: PairConfig) -> float:
    """Image pixels for one crop pixel at the largest zoom."""
    return max(1.0, 1 / config.scale_range[0]) * _tilt_reach(config) / config.zoom_range[1]


def _tilt_reach(config: PairConfig) -> float:
    """Return the factor by which stretch and perspective reach further into the image."""
    return math.sqrt(config.max_stretch) / (1 - config.perspective)


def _draw_maps(
    rng: np.random.Generator, image: Image, config: PairConfig
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    height, width = image.shape[:2]
    side = config.crop_px
    ratio = _log_uniform(rng, config.scale_range)
    half_diagonal = side / math.sqrt(2) * max(1.0, _tilt_reach(config) / ratio)
    least_zoom = 2 * half_diagonal / min(height, width)
    low, high = config.zoom_range
    zoom = _log_uniform(
        rng, (min(max(low, least_zoom), max(high, least_zoom)), max(high, least_zoom))
    )
    margin = half_diagonal / zoom
    if config.centred:
        centre = ((width - 1) / 2, (height - 1) / 2)
    else:
        centre = tuple(
            rng.uniform(margin, max(size - margin, margin)) - 0.5 for size in (width, height)
        )
    angle = math.radians(rng.uniform(-config.max_angle_deg, config.max_angle_deg))
    to_crop = np.eye(3)
    to_crop[:2, 2] = (side - 1) / 2 - np.array(centre)
    about = ((side - 1) / 2, (side - 1) / 2)
    a_from_image = rotation_about(0.0, about, zoom).numpy() @ to_crop
    tilt = _draw_tilt(rng, config, about)
    b_from_image = rotation_about(angle, about, zoom * ratio).numpy() @ tilt @ to_crop
    return a_from_image, b_from_image, angle


def _draw_tilt(
    rng: np.random.Generator, config: PairConfig, about: tuple[float, float]
) -> NDArray[np.float64]:
    """Draw stretch and perspective about the crop's centre, without a rotation there."""
    if config.max_stretch == 1 and config.perspective == 0:
        return np.eye(3)
    slope = config.perspective / (2 * np.array(about))
    back = np.eye(3)
    back[:2, 2] = about
    return np.asarray(back @ draw_tilt(rng, config.max_stretch, slope) @ np.linalg.inv(back))


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))


def _crop(image: Image, crop_from_image: NDArray[np.float64], side: int) -> Image:
    """Draw the crop at twice its size and average it down, so that fine texture does not alias."""
    twice = np.array([[2.0, 0, 0.5], [0, 2.0, 0.5], [0, 0, 1]])
    fine = cv2.warpPerspective(
        image,
        twice @ crop_from_image,
        (2 * side, 2 * side),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return np.asarray(cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _has_texture(crop: Image, least: float) -> bool:
    grey = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY).astype(np.float32)
    return bool(cv2.Sobel(grey, cv2.CV_32F, 1, 0).max() >= least * max(grey.max(), 1.0))


def _augment_color(rng: np.random.Generator, crop: Image, config: PairConfig) -> Image:
    """Photometric augmentation in colour; each kind with probability one half."""
    values = crop.astype(np.float32)
    if rng.random() < 0.5:
        values += rng.uniform(-config.brightness, config.brightness)
    if rng.random() < 0.5:
        values *= rng.uniform(*config.contrast)
    values = np.clip(values, 0, 255) / np.float32(255)
    hsv = cv2.cvtColor(values, cv2.COLOR_BGR2HSV)
    if rng.random() < 0.5:
        hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(*config.saturation), 0, 1)
    if rng.random() < 0.5:
        hsv[..., 0] = (hsv[..., 0] + rng.uniform(-config.hue_deg, config.hue_deg)) % 360
    values = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), dtype=np.float32)
    if rng.random() < 0.5:
        values = values[..., rng.permutation(3)]
    return np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)


def _augment_quality(rng: np.random.Generator, grey: Image, config: PairConfig) -> Image:
    """Blur, noise and compression, in the order in which a camera adds them."""
    values = grey.astype(np.float32)
    if config.blur_px > 0 and rng.random() < 0.5:
        sigma = rng.uniform(0.05, config.blur_px)
        values = np.asarray(cv2.GaussianBlur(values, (0, 0), sigma), dtype=np.float32)
    if config.noise > 0:
        values += rng.normal(0, rng.uniform(0, config.noise), values.shape).astype(np.float32)
    crop = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return compress_at_random(rng, crop, config.jpeg_quality)
