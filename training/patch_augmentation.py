"""What warped photos cannot show: shadows that fall across a patch, and things in front of it.

A photo under a homography is flat. In a scene the background behind an edge moves with the
viewpoint, something may stand before the place, and shadows wander. All three are imitated on the
patches of a batch, each patch its own, so that the two patches of a pair differ by them.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

EDGE_PX = 1.5
"""Width of the border of a shadow or of what is in front."""


@dataclass(frozen=True)
class PatchAugmentation:
    """How often patches are changed, and how much."""

    max_gamma: float = 1.25
    """Largest exponent on pixel values, log-uniform from its inverse."""
    shadows: float = 0.0
    """Share of patches that a shadow falls on, behind a straight edge."""
    darkest: float = 0.35
    """Least factor on the values in a shadow."""
    occlusions: float = 0.0
    """Share of patches of which a part behind a straight edge shows another place."""
    nearest: float = 0.2
    """How near to the centre such an edge comes, as a share of the patch's side."""

    def __post_init__(self) -> None:
        if not self.max_gamma >= 1:
            raise ValueError(f"max_gamma must be at least 1, got {self.max_gamma}")
        for name in ("shadows", "darkest", "occlusions"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.nearest < 0.5:
            raise ValueError(f"nearest must be in [0, 0.5), got {self.nearest}")


Values = Float[np.ndarray, "patch side side"]


def augment_patches(
    rng: np.random.Generator, patches: NDArray[np.uint8], changes: PatchAugmentation
) -> Values:
    """Patches in 0..1, each changed by draws of its own.

    Args:
        rng: source of the draws.
        patches: shape (patch, side, side), grey levels.
        changes: what is done to them.
    """
    count = len(patches)
    values = patches.astype(np.float32) / 255
    if changes.occlusions:
        # first: what stands in front is lit like the rest
        front = _behind_an_edge(rng, count, patches.shape[1], changes.nearest)
        front *= _chosen(rng, count, changes.occlusions)
        values += front * (values[rng.permutation(count)] - values)
    if changes.shadows:
        shade = _behind_an_edge(rng, count, patches.shape[1], 0.0)
        depth = 1 - rng.uniform(changes.darkest, 1, (count, 1, 1)).astype(np.float32)
        values *= 1 - shade * depth * _chosen(rng, count, changes.shadows)
    exponent = np.exp(rng.uniform(-1, 1, (count, 1, 1)) * np.log(changes.max_gamma))
    changed: Values = values ** exponent.astype(np.float32)
    return changed


def _chosen(rng: np.random.Generator, count: int, share: float) -> NDArray[np.float32]:
    return (rng.random((count, 1, 1)) < share).astype(np.float32)


def _behind_an_edge(
    rng: np.random.Generator, count: int, side: int, nearest: float
) -> NDArray[np.float32]:
    """How far each pixel is behind a random straight edge, 0..1; the centre never is by much."""
    turn = rng.uniform(0, 2 * np.pi, (count, 1, 1)).astype(np.float32)
    distance = side * rng.uniform(nearest, 0.5, (count, 1, 1)).astype(np.float32)
    axis = np.arange(side, dtype=np.float32) - (side - 1) / 2
    along = np.cos(turn) * axis[None, None] + np.sin(turn) * axis[None, :, None]
    behind: NDArray[np.float32] = np.clip((along - distance) / EDGE_PX + 0.5, 0, 1)
    return behind
