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
from typing import Protocol

import cv2
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from rekd_hloc.geometry import rotation_about
from training.crops import augment_color, augment_quality, cut_crop, has_texture, log_uniform
from training.pair_config import PairConfig
from training.warps import Image, draw_tilt

logger = logging.getLogger(__name__)

NUM_NAMED = 3
"""Skipped images named for each reason."""


@dataclass(frozen=True)
class PairBatch:
    """Crops a and b in 0..1 (batch, 1, side, side), b_from_a (batch, 3, 3), angle (batch,) rad."""

    image_a: Float[Tensor, "batch 1 side side"]
    image_b: Float[Tensor, "batch 1 side side"]
    b_from_a: Float[Tensor, "batch 3 3"]
    angle: Float[Tensor, " batch"]


Drawn = tuple[Image, Image, NDArray[np.float64], float]
"""Grey crops a and b (uint8), b_from_a, and the rotation of the content from a to b in radians,
clockwise in image coordinates."""


class PhotoPairs(Protocol):
    """Draws pairs of crops from two photos of one place."""

    def draw(self, rng: np.random.Generator) -> Drawn | None:
        """Draw a pair; None if no place was found."""
        ...


@dataclass
class ImageSet:
    """Images in memory that are large enough and have texture; the log says which are skipped.

    Attributes:
        images: those that can be used.
        skipped: the reason by path.
        photo_pairs: where a share of the pairs comes from instead.
        photo_share: that share.

    Raises:
        ValueError: fewer than ``min_images`` can be used.
    """

    paths: Sequence[Path]
    config: PairConfig
    min_images: int = 2
    images: list[Image] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    photo_pairs: PhotoPairs | None = None
    photo_share: float = 0.0

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
            elif not has_texture(image, self.config.min_texture):
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

    def pair(self, seed: int, index: int) -> Drawn:
        """Draw one pair."""
        rng = np.random.default_rng([seed, index])
        if self.photo_pairs is not None and rng.random() < self.photo_share:
            drawn = self.photo_pairs.draw(rng)
            if drawn is not None:
                return drawn
        for _ in range(self.config.max_tries):
            image = self.images[rng.integers(len(self.images))]
            a_from_image, b_from_image, angle = _draw_maps(rng, image, self.config)
            crop_a = cut_crop(image, a_from_image, self.config.crop_px)
            if has_texture(crop_a, self.config.min_texture):
                break
        crop_b = augment_color(rng, cut_crop(image, b_from_image, self.config.crop_px), self.config)
        b_from_a = b_from_image @ np.linalg.inv(a_from_image)
        grey_a, grey_b = (cv2.cvtColor(c, cv2.COLOR_BGR2GRAY) for c in (crop_a, crop_b))
        grey_a, grey_b = (
            augment_quality(rng, np.asarray(g, dtype=np.uint8), self.config)
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
    ratio = log_uniform(rng, config.scale_range)
    half_diagonal = side / math.sqrt(2) * max(1.0, _tilt_reach(config) / ratio)
    least_zoom = 2 * half_diagonal / min(height, width)
    low, high = config.zoom_range
    zoom = log_uniform(
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
