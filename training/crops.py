"""Crops of photos, and what light and camera change in them."""

import cv2
import numpy as np
from numpy.typing import NDArray

from training.pair_config import PairConfig
from training.warps import Image, compress_at_random


def log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """Draw a number whose logarithm is uniform between those of two bounds."""
    return float(np.exp(rng.uniform(*np.log(bounds))))


def cut_crop(image: Image, crop_from_image: NDArray[np.float64], side: int) -> Image:
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


def has_texture(crop: Image, least: float) -> bool:
    """Say whether the strongest horizontal edge is that share of the brightest pixel at least."""
    if crop.ndim == 2:
        crop = np.repeat(crop[:, :, None], 3, axis=2)
    grey = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY).astype(np.float32)
    return bool(cv2.Sobel(grey, cv2.CV_32F, 1, 0).max() >= least * max(grey.max(), 1.0))


def augment_color(rng: np.random.Generator, crop: Image, config: PairConfig) -> Image:
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


def augment_quality(rng: np.random.Generator, grey: Image, config: PairConfig) -> Image:
    """Blur, noise and compression, in the order in which a camera adds them."""
    values = grey.astype(np.float32)
    if config.blur_px > 0 and rng.random() < 0.5:
        sigma = rng.uniform(0.05, config.blur_px)
        values = np.asarray(cv2.GaussianBlur(values, (0, 0), sigma), dtype=np.float32)
    if config.noise > 0:
        values += rng.normal(0, rng.uniform(0, config.noise), values.shape).astype(np.float32)
    crop = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return compress_at_random(rng, crop, config.jpeg_quality)
