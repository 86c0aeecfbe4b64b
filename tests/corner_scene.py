"""Photos of a textured corner of a room from rolled cameras with exact poses, in a blink."""

import cv2
import h5py
import numpy as np

from tests.helpers import textured_image

SIZE = (360, 270)
FOCAL = 340.0
TEXTURE_PX = 400
WALLS = ((0, 1), (1, 2), (2, 0))
"""Axes that span each wall; the corner is the origin, the walls are 2 long."""


def make_photos(folder, num_views=6, seed=0):
    """Write ``images/*.png`` and true poses, as IMC's, in ``reference``; returns the names."""
    (folder / "images").mkdir(parents=True)
    (folder / "reference").mkdir()
    rng = np.random.default_rng(seed)
    textures = [textured_image(TEXTURE_PX, TEXTURE_PX, seed=i) for i in range(3)]
    names = []
    for index in range(num_views):
        rotation, centre = _look_at_corner(index / num_views, rng)
        name = f"view {index:02d}.png"
        image = _render(rotation, centre, textures)
        assert cv2.imwrite(str(folder / "images" / name), image)
        names.append(name)
        with h5py.File(folder / "reference" / f"calibration_view {index:02d}.h5", "w") as file:
            file["R"], file["T"] = rotation, -rotation @ centre
    return names


def _look_at_corner(share, rng):
    """Cameras on an arc inside the corner, each rolled by any angle."""
    centre = np.array([2.6, 2.6, 2.6]) + 0.9 * np.array(
        [np.cos(2 * np.pi * share), np.sin(2 * np.pi * share), np.sin(4 * np.pi * share)]
    )
    forward = np.array([0.55, 0.55, 0.55]) - centre
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, rng.normal(size=3))
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward]), centre


def _render(rotation, centre, textures):
    calibration = np.array(
        [[FOCAL, 0, SIZE[0] / 2 - 0.5], [0, FOCAL, SIZE[1] / 2 - 0.5], [0, 0, 1]]
    )
    total = np.full(SIZE[::-1], 90, np.uint8)
    for (u, v), texture in zip(WALLS, textures, strict=True):
        wall = np.zeros((3, 3))  # columns: along u, along v, the corner, for texture pixels
        wall[u, 0] = wall[v, 1] = 2.0 / TEXTURE_PX
        image_from_texture = calibration @ rotation @ (wall - np.outer(centre, [0, 0, 1]))
        drawn = cv2.warpPerspective(texture, image_from_texture, SIZE, flags=cv2.INTER_AREA)
        covered = cv2.warpPerspective(
            np.full_like(texture, 255), image_from_texture, SIZE, flags=cv2.INTER_NEAREST
        )
        total = np.where(covered > 0, drawn, total)
    return total
