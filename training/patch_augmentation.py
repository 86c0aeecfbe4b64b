"""Patch augmentation: light, camera and occlusions, each patch by draws of its own.

An image under a homography is flat. In a scene the background behind an edge moves with the
viewpoint, something may occlude the point, and shadows move. These changes are imitated on the
patches of a batch, so that the two patches of a pair differ by them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from training.photometric_augmentation import (
    add_gradients,
    add_sensor_noise,
    apply_tone_curves,
    transfer_histograms,
)

EDGE_PX = 1.5
"""Width of the border of a shadow or of an occluder."""
SHARES = (
    "shadow_share",
    "min_shadow_factor",
    "occlusion_share",
    "gradient_share",
    "histogram_share",
    "tone_share",
)
"""Options that are parts of one."""


@dataclass(frozen=True)
class PatchAugmentation:
    """How often patches are augmented, and by how much."""

    max_gamma: float = 1.25
    """Largest exponent on pixel values, log-uniform from its inverse."""
    shadow_share: float = 0.0
    """Share of patches with a shadow on one side of a straight edge."""
    min_shadow_factor: float = 0.35
    """Smallest factor on the values in a shadow."""
    occlusion_share: float = 0.0
    """Share of patches that show another patch on one side of a straight edge."""
    min_occlusion_distance: float = 0.2
    """Smallest distance of such an edge from the centre, as a share of the patch's side."""

    gradient_share: float = 0.0
    """Share of patches whose light falls off to one side, or that glare veils there."""
    max_gradient: float = 3.0
    """Largest ratio of the light on two opposite sides."""
    shot_noise: float = 0.0
    """Largest standard deviation of the photons' noise in white, of values in 0..1."""
    read_noise: float = 0.0
    """Largest standard deviation of the noise in black."""
    histogram_share: float = 0.0
    """Share of patches that get a part of the way to another patch's histogram."""
    tone_share: float = 0.0
    """Share of patches with a tone curve."""
    tone_strength: float = 0.5
    """Standard deviation of the logarithm of a tone curve's slopes."""

    def __post_init__(self) -> None:
        for name in ("max_gamma", "max_gradient"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("shot_noise", "read_noise", "tone_strength"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.min_occlusion_distance < 0.5:
            raise ValueError(
                f"min_occlusion_distance must be in [0, 0.5), got {self.min_occlusion_distance}"
            )


Values = Float[np.ndarray, "patch *support side side"]


def augment_patches(
    rng: np.random.Generator,
    patches: NDArray[np.uint8],
    augmentation: PatchAugmentation,
    *,
    supports: Sequence[float] = (1.0,),
) -> Values:
    """Augment each patch by draws of its own; returns values in 0..1, of the shape of ``patches``.

    Args:
        rng: source of the draws.
        patches: shape (patch, side, side), grey levels; with several supports (patch, support,
            side, side), whose channels show one place and are augmented alike.
        augmentation: how often and by how much.
        supports: factors on the width of what the channels show.
    """
    count, side = len(patches), patches.shape[-1]
    shape = count, len(supports), side, side
    values: NDArray[np.float32] = np.divide(patches, 255, dtype=np.float32).reshape(shape)
    if augmentation.occlusion_share:
        # first: the occluder is lit like the rest
        distance = augmentation.min_occlusion_distance
        occluder = _half_plane_mask(rng, count, side, distance, supports)
        occluder *= _draw_chosen(rng, count, augmentation.occlusion_share)
        values += occluder * (values[rng.permutation(count)] - values)
    if augmentation.shadow_share:
        shadow = _half_plane_mask(rng, count, side, 0.0, supports)
        factor = rng.uniform(augmentation.min_shadow_factor, 1, (count, 1, 1, 1))
        depth = 1 - factor.astype(np.float32)
        values *= 1 - shadow * depth * _draw_chosen(rng, count, augmentation.shadow_share)
    values = _augment_light_and_camera(rng, values, augmentation, supports)
    exponent = np.exp(rng.uniform(-1, 1, (count, 1, 1, 1)) * np.log(augmentation.max_gamma))
    augmented: Values = values ** exponent.astype(np.float32)
    return augmented.reshape(patches.shape)


def _augment_light_and_camera(
    rng: np.random.Generator,
    values: NDArray[np.float32],
    augmentation: PatchAugmentation,
    supports: Sequence[float],
) -> NDArray[np.float32]:
    """In the order in which it happens; an option that is off draws nothing."""

    def draw(share: float) -> NDArray[np.bool_]:
        return rng.random(len(values)) < share

    if share := augmentation.gradient_share:
        values = add_gradients(rng, values, draw(share), augmentation.max_gradient, supports)
    if augmentation.shot_noise or augmentation.read_noise:
        values = add_sensor_noise(
            rng, values, augmentation.shot_noise, augmentation.read_noise, supports
        )
    if share := augmentation.histogram_share:
        values = transfer_histograms(rng, values, draw(share))
    if share := augmentation.tone_share:
        values = apply_tone_curves(rng, values, draw(share), augmentation.tone_strength)
    return values


def _draw_chosen(rng: np.random.Generator, count: int, share: float) -> NDArray[np.float32]:
    return (rng.random((count, 1, 1, 1)) < share).astype(np.float32)


def _half_plane_mask(
    rng: np.random.Generator,
    count: int,
    side: int,
    min_distance: float,
    supports: Sequence[float],
) -> NDArray[np.float32]:
    """Draw for each patch a mask that is 1 beyond a random straight edge and 0 at the centre.

    The edge is at least ``min_distance`` from the centre, as a share of the first support's side;
    in a larger support it is nearer to the centre by as much as the support is larger.
    """
    direction = rng.uniform(0, 2 * np.pi, (count, 1, 1, 1)).astype(np.float32)
    distance = side * rng.uniform(min_distance, 0.5, (count, 1, 1, 1)).astype(np.float32)
    distance = distance / (np.asarray(supports, np.float32) / supports[0])[:, None, None]
    axis = np.arange(side, dtype=np.float32) - (side - 1) / 2
    along = np.cos(direction) * axis + np.sin(direction) * axis[:, None]
    mask: NDArray[np.float32] = np.clip((along - distance) / EDGE_PX + 0.5, 0, 1)
    return mask
