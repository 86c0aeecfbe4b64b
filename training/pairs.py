"""Synthetic pairs: a crop of a photo, and the same place turned, scaled, tilted and relit.

Pairs are drawn on the fly. Each is a pure function of (seed, index), so a run that is stopped and
resumed sees exactly the pairs that an uninterrupted one would have seen.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from rekd_hloc.geometry import rotation_about
from training.warps import draw_tilt

logger = logging.getLogger(__name__)

Photo = NDArray[np.uint8]


@dataclass(frozen=True)
class PairConfig:
    """How a pair is drawn; the defaults are the paper's where it has one, and said where not."""

    crop_px: int = 192
    """Side of both crops (paper: 192)."""
    max_angle_deg: float = 180.0
    """The turn is uniform in +- this (paper: 180)."""
    scale_range: tuple[float, float] = (1.0, 1.0)
    """Log-uniform factor of size between the two crops (paper: 1; its code has a flag)."""
    max_stretch: float = 1.0
    """Largest ratio of the scales along two axes, log-uniform from 1; a shear of s is a stretch
    of 1 + s to first order (paper: 1; its code has a flag for shear)."""
    perspective: float = 0.0
    """Largest change of scale across half the crop by perspective (paper: 0)."""
    zoom_range: tuple[float, float] = (1.0, 1.0)
    """Log-uniform size of the photo before cropping (paper: 1, the photo as it is)."""
    centred: bool = False
    """Crop at the photo's centre (paper) rather than anywhere the crop fits."""
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
    """Photos in memory, with those that are of no use counted.

    Raises:
        ValueError: fewer than ``min_photos`` can be used.
    """

    paths: Sequence[Path]
    config: PairConfig
    min_photos: int = 2
    photos: list[Photo] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        needed = math.sqrt(2) * self.config.crop_px * _least_footprint(self.config)
        for path in self.paths:
            photo = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_COLOR)
            if photo is None:
                self.skipped[str(path)] = "not an image"
            elif min(photo.shape[:2]) < needed:
                self.skipped[str(path)] = f"short side {min(photo.shape[:2])} < {needed:.0f} px"
            elif not _has_texture(np.asarray(photo, dtype=np.uint8), self.config.min_texture):
                self.skipped[str(path)] = "no texture anywhere"
            else:
                self.photos.append(np.asarray(photo, dtype=np.uint8))
        if self.skipped:
            logger.warning("%d of %d photos skipped", len(self.skipped), len(self.paths))
        if len(self.photos) < self.min_photos:
            raise ValueError(
                f"only {len(self.photos)} of {len(self.paths)} photos can be used, at least "
                f"{self.min_photos} are needed; a crop of {self.config.crop_px} px needs a short "
                f"side of {needed:.0f} px"
            )

    def batch(self, seed: int, step: int, size: int) -> PairBatch:
        """Pairs number ``step * size`` and on of the endless sequence that ``seed`` names."""
        pairs = [self.pair(seed, step * size + i) for i in range(size)]
        image_a, image_b, b_from_a, angle = zip(*pairs, strict=True)
        return PairBatch(
            image_a=torch.from_numpy(np.stack(image_a))[:, None].float() / 255,
            image_b=torch.from_numpy(np.stack(image_b))[:, None].float() / 255,
            b_from_a=torch.from_numpy(np.stack(b_from_a)).float(),
            angle=torch.tensor(angle, dtype=torch.float32),
        )

    def pair(self, seed: int, index: int) -> tuple[Photo, Photo, NDArray[np.float64], float]:
        """Grey crops a and b (uint8), b_from_a, and the turn in radians (house sense)."""
        rng = np.random.default_rng([seed, index])
        for _ in range(self.config.max_tries):
            photo = self.photos[rng.integers(len(self.photos))]
            a_from_photo, b_from_photo, angle = _draw_maps(rng, photo, self.config)
            crop_a = _cut(photo, a_from_photo, self.config.crop_px)
            if _has_texture(crop_a, self.config.min_texture):
                break
        crop_b = _relight(rng, _cut(photo, b_from_photo, self.config.crop_px), self.config)
        b_from_a = b_from_photo @ np.linalg.inv(a_from_photo)
        grey_a, grey_b = (cv2.cvtColor(c, cv2.COLOR_BGR2GRAY) for c in (crop_a, crop_b))
        grey_a, grey_b = (_degrade(rng, np.asarray(g), self.config) for g in (grey_a, grey_b))
        return grey_a, grey_b, b_from_a, angle


def _least_footprint(config: PairConfig) -> float:
    """Photo pixels for one crop pixel at the largest zoom."""
    return max(1.0, 1 / config.scale_range[0]) * _tilt_reach(config) / config.zoom_range[1]


def _tilt_reach(config: PairConfig) -> float:
    """How much further stretch and perspective may reach into the photo."""
    return math.sqrt(config.max_stretch) / (1 - config.perspective)


def _draw_maps(
    rng: np.random.Generator, photo: Photo, config: PairConfig
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    height, width = photo.shape[:2]
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
    a_from_photo = rotation_about(0.0, about, zoom).numpy() @ to_crop
    tilt = _draw_tilt(rng, config, about)
    b_from_photo = rotation_about(angle, about, zoom * ratio).numpy() @ tilt @ to_crop
    return a_from_photo, b_from_photo, angle


def _draw_tilt(
    rng: np.random.Generator, config: PairConfig, about: tuple[float, float]
) -> NDArray[np.float64]:
    """Stretch along a random axis and perspective about the crop's centre, without a turn there."""
    if config.max_stretch == 1 and config.perspective == 0:
        return np.eye(3)
    slope = config.perspective / (2 * np.array(about))
    back = np.eye(3)
    back[:2, 2] = about
    return np.asarray(back @ draw_tilt(rng, config.max_stretch, slope) @ np.linalg.inv(back))


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))


def _cut(photo: Photo, crop_from_photo: NDArray[np.float64], side: int) -> Photo:
    """The crop, drawn at twice its size and averaged down so that fine texture does not alias."""
    twice = np.array([[2.0, 0, 0.5], [0, 2.0, 0.5], [0, 0, 1]])
    fine = cv2.warpPerspective(
        photo,
        twice @ crop_from_photo,
        (2 * side, 2 * side),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return np.asarray(cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _has_texture(crop: Photo, least: float) -> bool:
    grey = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY).astype(np.float32)
    return bool(cv2.Sobel(grey, cv2.CV_32F, 1, 0).max() >= least * max(grey.max(), 1.0))


def _relight(rng: np.random.Generator, crop: Photo, config: PairConfig) -> Photo:
    """Colour jitter, each kind with probability one half."""
    values = crop.astype(np.float32)
    if rng.random() < 0.5:
        values += rng.uniform(-config.brightness, config.brightness)
    if rng.random() < 0.5:
        values *= rng.uniform(*config.contrast)
    values = np.clip(values, 0, 255) / 255
    hsv = cv2.cvtColor(values, cv2.COLOR_BGR2HSV)
    if rng.random() < 0.5:
        hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(*config.saturation), 0, 1)
    if rng.random() < 0.5:
        hsv[..., 0] = (hsv[..., 0] + rng.uniform(-config.hue_deg, config.hue_deg)) % 360
    values = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if rng.random() < 0.5:
        values = values[..., rng.permutation(3)]
    return np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)


def _degrade(rng: np.random.Generator, grey: NDArray[np.uint8], config: PairConfig) -> Photo:
    """Blur, noise and compression, in the order in which a camera adds them."""
    values = grey.astype(np.float32)
    if config.blur_px > 0 and rng.random() < 0.5:
        sigma = rng.uniform(0.05, config.blur_px)
        values = np.asarray(cv2.GaussianBlur(values, (0, 0), sigma), dtype=np.float32)
    if config.noise > 0:
        values += rng.normal(0, rng.uniform(0, config.noise), values.shape).astype(np.float32)
    crop = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    if config.jpeg_quality < 100 and rng.random() < 0.5:
        quality = int(rng.integers(config.jpeg_quality, 100))
        _, code = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, quality])
        crop = np.asarray(cv2.imdecode(code, cv2.IMREAD_GRAYSCALE), dtype=np.uint8)
    return crop
