"""Pairs of crops from two photos of one plane of a real scene, with the homography between them.

Warped photos (:mod:`training.pairs`) show one light, one focus and no change but the drawn one. Two
photos of a facade, of the ground from the air or of a page differ as photos do. Where the scene
points that both photos see inside a crop fit one homography, the pair is as exact as they are.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.typing import NDArray

from rekd_hloc.geometry import homography_jacobian, rotation_about
from training.crops import augment_quality, cut_crop, has_texture, log_uniform
from training.pair_config import PairConfig
from training.pairs import Drawn
from training.scenes.geometry import Points, SceneGeometry
from training.warps import Image

logger = logging.getLogger(__name__)

MIN_COMMON_POINTS = 40
"""Fewest scene points that two photos share."""
MIN_POINTS = 10
"""Fewest scene points of one crop."""
MIN_SHARE = 0.85
"""Smallest share of them on the plane: the rest of the crop is taken to be as flat."""
MIN_COVER = 0.25
"""Smallest part of the crop's area that their convex hull covers."""
MAX_ERROR_PX = 1.5
"""Largest error of a scene point on the plane, in pixels of the second photo."""
MAX_STRETCH = 1.6
"""Largest ratio of the scales along two axes at the centre: beyond it, the angle is not one."""
MAX_ZOOM = 2.0
"""Largest magnification of either photo in a crop."""
TRIES = 30
"""Draws before a place is given up."""


@dataclass(frozen=True, eq=False)
class _CommonPoints:
    """Two photos of a scene, and the scene points that both see."""

    scene: int
    views: tuple[int, int]
    xy_a: Points
    xy_b: Points


class PlanarPairs:
    """Draws pairs from reconstructions; each scene is drawn as often as any other.

    Args:
        scenes: reconstructions with their photos.
        config: side of the crops, range of zooms, what cameras do to them. The rotation between
            both photos is followed by one drawn at random.

    Raises:
        ValueError: no two photos of a scene share enough points.
    """

    def __init__(self, scenes: Sequence[SceneGeometry], config: PairConfig) -> None:
        self.scenes = list(scenes)
        self.config = config
        self.pairs = [_common_points(scene, number) for number, scene in enumerate(self.scenes)]
        self.pairs = [pairs for pairs in self.pairs if pairs]
        if not self.pairs:
            raise ValueError(
                f"no two photos of the {len(self.scenes)} reconstructions share "
                f"{MIN_COMMON_POINTS} scene points; give reconstructions of more photos"
            )
        self._photos: dict[Path, Image] = {}

    @classmethod
    def read(
        cls, models: Sequence[str], folders: Sequence[str], config: PairConfig
    ) -> "PlanarPairs":
        """Read COLMAP models, and open the photos in the folder of each.

        Raises:
            FileNotFoundError: no such model or photo.
            ValueError: as the class.
        """
        sources = zip(models, folders, strict=True)
        return cls([SceneGeometry.read(Path(m), Path(f)) for m, f in sources], config)

    def draw(self, rng: np.random.Generator) -> Drawn | None:
        """Draw a pair, as :meth:`training.pairs.ImageSet.pair` does; None if no place was found."""
        for _ in range(TRIES):
            pairs = self.pairs[rng.integers(len(self.pairs))]
            common = pairs[rng.integers(len(pairs))]
            if rng.random() < 0.5:
                common = _CommonPoints(common.scene, common.views[::-1], common.xy_b, common.xy_a)
            drawn = self._draw_place(rng, common)
            if drawn is not None:
                return drawn
        return None

    def _draw_place(self, rng: np.random.Generator, common: _CommonPoints) -> Drawn | None:
        config, side = self.config, self.config.crop_px
        zoom = min(log_uniform(rng, config.zoom_range), MAX_ZOOM)
        centre = common.xy_a[rng.integers(len(common.xy_a))]
        centre = centre + rng.uniform(-0.25, 0.25, 2) * side / zoom
        a = self._photo(common.scene, common.views[0])
        if not _fits(centre, side / zoom / 2, a):
            return None
        b_from_a = _fit_homography(common, centre, side / zoom)
        if b_from_a is None:
            return None
        there = torch.from_numpy(centre)[None]
        jacobian = homography_jacobian(torch.from_numpy(b_from_a), there)[0].numpy()
        axes, stretches, other_axes = np.linalg.svd(jacobian)
        if np.linalg.det(jacobian) <= 0 or stretches[0] > MAX_STRETCH * stretches[1]:
            return None
        turn = axes @ other_axes
        rolled = math.atan2(turn[1, 0], turn[0, 0])
        zoom_b = zoom * log_uniform(rng, config.scale_range) / math.sqrt(stretches.prod())
        if zoom_b > MAX_ZOOM:
            return None
        angle = math.radians(rng.uniform(-config.max_angle_deg, config.max_angle_deg))
        centre_b = b_from_a @ np.array([*centre, 1.0])
        b = self._photo(common.scene, common.views[1])
        a_map = _crop_map(centre, zoom, 0.0, side)
        b_map = _crop_map(centre_b[:2] / centre_b[2], zoom_b, angle - rolled, side)
        crop_a, crop_b = cut_crop(a, a_map, side), cut_crop(b, b_map, side)
        if not (
            has_texture(crop_a, config.min_texture) and has_texture(crop_b, config.min_texture)
        ):
            return None
        crop_a, crop_b = (augment_quality(rng, crop, config) for crop in (crop_a, crop_b))
        return crop_a, crop_b, b_map @ b_from_a @ np.linalg.inv(a_map), angle

    def _photo(self, scene: int, view: int) -> Image:
        path = self.scenes[scene].views[view].path
        if path not in self._photos:
            decoded = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_GRAYSCALE)
            if decoded is None:
                raise ValueError(f"{path} is not an image; make its reconstruction again")
            self._photos[path] = np.asarray(decoded, dtype=np.uint8)
        return self._photos[path]


def _common_points(scene: SceneGeometry, number: int) -> list[_CommonPoints]:
    pairs = []
    for i, j, _ in scene.covisible_pairs(MIN_COMMON_POINTS):
        a, b = scene.views[i], scene.views[j]
        rows = np.intersect1d(a.point, b.point, assume_unique=True, return_indices=True)
        pairs.append(_CommonPoints(number, (i, j), a.xy[rows[1]], b.xy[rows[2]]))
    return pairs


def _fits(centre: NDArray[np.float64], half: float, photo: Image) -> bool:
    height, width = photo.shape[:2]
    return bool(half <= centre[0] <= width - 1 - half and half <= centre[1] <= height - 1 - half)


def _fit_homography(
    common: _CommonPoints, centre: NDArray[np.float64], side_px: float
) -> Float64[np.ndarray, "3 3"] | None:
    """Fit one to the scene points in a square of the first photo; None if they do not agree."""
    inside = (np.abs(common.xy_a - centre) <= side_px / 2).all(axis=1)
    chosen: Int64[np.ndarray, " point"] = np.flatnonzero(inside)
    if len(chosen) < MIN_POINTS:
        return None
    xy_a, xy_b = common.xy_a[chosen], common.xy_b[chosen]
    b_from_a, _ = cv2.findHomography(xy_a, xy_b, cv2.RANSAC, MAX_ERROR_PX)
    if b_from_a is None:
        return None
    moved = np.column_stack([xy_a, np.ones(len(xy_a))]) @ b_from_a.T
    error = np.linalg.norm(moved[:, :2] / moved[:, 2:] - xy_b, axis=1)
    agrees = (error <= MAX_ERROR_PX) & (moved[:, 2] > 0)
    if agrees.mean() < MIN_SHARE:
        return None
    hull = cv2.convexHull(xy_a[agrees].astype(np.float32))
    if cv2.contourArea(hull) < MIN_COVER * side_px**2:
        return None
    return np.asarray(b_from_a, dtype=np.float64)


def _crop_map(
    centre: NDArray[np.float64], zoom: float, angle: float, side: int
) -> NDArray[np.float64]:
    """Return the map to a crop from a photo: the centre to the crop's, scaled and rotated."""
    middle = (side - 1) / 2
    to_crop = np.eye(3)
    to_crop[:2, 2] = middle - np.asarray(centre)
    return np.asarray(rotation_about(angle, (middle, middle), zoom).numpy() @ to_crop)
