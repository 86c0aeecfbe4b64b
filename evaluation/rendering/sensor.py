"""How a camera turns light into a picture: exposure, colour, falling-off, noise, response."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32

from evaluation.rendering.noise import Image


@dataclass(frozen=True)
class Light:
    """Light and camera settings of one picture.

    Attributes:
        sun: RGB strength of the sun.
        ambient: RGB strength of the sky.
        exposure: factor on all light.
        gamma: factor on the exponent of the response; above 1 lifts the dark parts.
        cast: RGB factors.
        gradient: brightness at both ends along ``gradient_deg`` is 1 - this and 1 + this.
        gradient_deg: direction in the image.
        vignetting: share of the light that is lost in the corners.
        noise: standard deviation of the sensor's noise at mid grey, in steps of 1/255.
    """

    sun: tuple[float, float, float]
    ambient: tuple[float, float, float]
    exposure: float
    gamma: float
    cast: tuple[float, float, float]
    gradient: float
    gradient_deg: float
    vignetting: float
    noise: float


def draw_light(rng: np.random.Generator) -> Light:
    """Light of another moment: sun behind thin clouds or not, other exposure and white balance."""
    sunny = rng.uniform(0.55, 1.15)
    warmth = rng.uniform(-0.05, 0.07)
    red, blue = rng.uniform(0.93, 1.07, 2)
    return Light(
        sun=(sunny, sunny * (0.93 - warmth / 3), sunny * (0.80 - warmth)),
        ambient=(0.21, 0.26, 0.34 + 0.05 * (1.0 - sunny)),
        exposure=float(rng.uniform(0.8, 1.25) / (0.25 + 0.65 * sunny)),
        gamma=float(rng.uniform(0.88, 1.2)),
        cast=(float(red), 1.0, float(blue)),
        gradient=float(rng.uniform(0.0, 0.18)),
        gradient_deg=float(rng.uniform(0.0, 360.0)),
        vignetting=float(rng.uniform(0.1, 0.3)),
        noise=float(rng.uniform(1.0, 2.2)),
    )


def expose(
    radiance: Float32[np.ndarray, "height width 3"], light: Light, rng: np.random.Generator
) -> Image:
    """The picture that the sensor makes of linear light, RGB bytes."""
    height, width = radiance.shape[:2]
    soft = cv2.GaussianBlur(radiance, (0, 0), 0.5)
    signal = soft * (light.exposure * _falloff(width, height, light))[..., None]
    signal = signal * np.asarray(light.cast, np.float32)
    shot = light.noise / 255.0 * (0.45 + 0.85 * np.sqrt(np.clip(signal, 0, 1)))
    grain = rng.standard_normal(radiance.shape, dtype=np.float32)
    curve = np.clip(_roll_off(signal), 0.0, 1.0) ** np.float32(1.0 / (2.2 * light.gamma))
    return np.asarray(np.clip((curve + shot * grain) * 255.0 + 0.5, 0, 255), dtype=np.uint8)


def _falloff(width: int, height: int, light: Light) -> Float32[np.ndarray, "height width"]:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    reach = 0.5 * float(np.hypot(width, height))
    x, y = (x - (width - 1) / 2) / reach, (y - (height - 1) / 2) / reach
    angle = np.radians(light.gradient_deg)
    slope = 1.0 + light.gradient * (x * np.cos(angle) + y * np.sin(angle))
    return np.asarray(slope * (1.0 - light.vignetting * (x * x + y * y)), dtype=np.float32)


def _roll_off(signal: Float32[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Highlights are compressed above 0.7 instead of cut."""
    knee = np.float32(0.7)
    above = np.maximum(signal - knee, 0.0)
    compressed = np.minimum(signal, knee) + (1 - knee) * (1 - np.exp(-above / (1 - knee)))
    return np.asarray(compressed, dtype=np.float32)
