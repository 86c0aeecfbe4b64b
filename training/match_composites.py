"""Views of a scene of several planes: a photo in pieces, each of which moves by its own homography.

One homography has no parallax, and a network that judges matches by their neighbours must see
edges of depth. A photo is cut into pieces. All pieces of a view follow one homography up to a shift
and a tilt of their own; later ones lie before earlier ones, and things of other photos before all.
Where a point lies in another view is known everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from training.planar_views import NOTHING, PlanarView
from training.warps import Image, WarpConfig, augment_photometric, draw_map, draw_tilt


@dataclass(frozen=True)
class CompositeConfig:
    """How views of a photo in pieces are drawn."""

    warps: WarpConfig = field(
        default_factory=lambda: WarpConfig(scale_range=(0.5, 2.0), max_stretch=1.6, perspective=0.2)
    )
    """Homography that all pieces of a view share, and photometric augmentation."""
    max_planes: int = 5
    """Largest number of pieces; at least two."""
    parallax: float = 0.12
    """Largest shift of a piece against the others, as a share of the view's shorter side."""
    tilt: float = 0.15
    """Largest change of scale of a piece across half the view."""
    piece_stretch: float = 1.25
    """Largest ratio between the scales of a piece along two axes."""
    max_occluders: int = 3
    """Largest number of things of other photos before the view."""
    views: int = 4
    """Views of a photo; each two of them are a pair."""

    def __post_init__(self) -> None:
        if self.max_planes < 2 or self.views < 2 or self.max_occluders < 0:
            raise ValueError(
                "max_planes and views must be at least 2 and max_occluders at least 0, got "
                f"{self.max_planes}, {self.views} and {self.max_occluders}"
            )


def draw_composite(
    rng: np.random.Generator, photo: Image, others: Sequence[Image], config: CompositeConfig
) -> list[PlanarView]:
    """Draw the views of a photo.

    Args:
        rng: source of all that is drawn.
        photo: in grey.
        others: photos in grey, for what lies before and behind the pieces.
        config: how to draw.
    """
    pieces = _draw_pieces(rng, photo.shape[:2], int(rng.integers(2, config.max_planes + 1)))
    return [_draw_view(rng, photo, pieces, others, config) for _ in range(config.views)]


def _draw_pieces(rng: np.random.Generator, shape: tuple[int, ...], count: int) -> NDArray[np.uint8]:
    """Cut an image into the regions nearest to random points."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    seeds = rng.uniform(0, 1, (count, 2)) * np.array(shape)
    squared = [(rows - row) ** 2 + (columns - column) ** 2 for row, column in seeds]
    return np.asarray(np.argmin(squared, axis=0), np.uint8)


def _draw_view(
    rng: np.random.Generator,
    photo: Image,
    pieces: NDArray[np.uint8],
    others: Sequence[Image],
    config: CompositeConfig,
) -> PlanarView:
    shared, size = draw_map(rng, photo, config.warps, False)
    view = cv2.resize(others[int(rng.integers(len(others)))], size, interpolation=cv2.INTER_AREA)
    label = np.full(view.shape, NOTHING, np.int16)
    maps = [_draw_piece_map(rng, size, config) @ shared for _ in range(int(pieces.max()) + 1)]
    for piece in rng.permutation(len(maps)):
        covered = _warp((pieces == piece).astype(np.uint8), maps[piece], size, cv2.INTER_NEAREST)
        drawn = _warp_smoothly(photo, maps[piece], size)
        view, label = (
            np.where(covered > 0, drawn, view),
            np.where(covered > 0, np.int16(piece), label),
        )
    for _ in range(rng.integers(config.max_occluders + 1)):
        before = cv2.resize(
            others[int(rng.integers(len(others)))], size, interpolation=cv2.INTER_AREA
        )
        hidden = _draw_occluder(rng, size)
        view, label = np.where(hidden, before, view), np.where(hidden, np.int16(NOTHING), label)
    grey = augment_photometric(rng, np.asarray(view, np.uint8), config.warps)
    return PlanarView(grey, label, np.stack(maps))


def _draw_piece_map(
    rng: np.random.Generator, size: tuple[int, int], config: CompositeConfig
) -> Float64[np.ndarray, "3 3"]:
    """Draw how a piece moves in a view, about the view's centre."""
    half = np.array(size) / 2
    to_centre = np.eye(3)
    to_centre[:2, 2] = -half
    moved = draw_tilt(rng, config.piece_stretch, config.tilt / half)
    back = np.eye(3)
    back[:2, 2] = half + rng.uniform(-1, 1, 2) * config.parallax * min(size)
    return np.asarray(back @ moved @ to_centre)


def _draw_occluder(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Draw a convex region of up to a third of the view's sides."""
    centre = rng.uniform(0, 1, 2) * np.array(size)
    corners = centre + rng.uniform(-0.17, 0.17, (7, 2)) * np.array(size)
    canvas = np.zeros(size[::-1], np.uint8)
    cv2.fillConvexPoly(canvas, cv2.convexHull(corners.astype(np.int32)), 1)
    return canvas > 0


def _warp_smoothly(
    photo: Image, view_from_image: NDArray[np.float64], size: tuple[int, int]
) -> Image:
    """Draw at twice the size and average, so that fine texture does not alias."""
    fine = np.array([[2.0, 0, 0.5], [0, 2.0, 0.5], [0, 0, 1]])
    twice = (2 * size[0], 2 * size[1])
    drawn = _warp(photo, fine @ view_from_image, twice, cv2.INTER_LINEAR)
    return np.asarray(cv2.resize(drawn, size, interpolation=cv2.INTER_AREA), np.uint8)


def _warp(
    image: Image, to_view: NDArray[np.float64], size: tuple[int, int], interpolation: int
) -> Image:
    border = cv2.BORDER_REFLECT_101 if interpolation == cv2.INTER_LINEAR else cv2.BORDER_CONSTANT
    return np.asarray(
        cv2.warpPerspective(image, to_view, size, flags=interpolation, borderMode=border), np.uint8
    )
