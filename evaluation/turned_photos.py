"""A folder of photographs with every image turned by a quarter turn of its own, and its true poses.

Quarter turns move pixels without resampling, so whatever changes in a result is due to rotation.
"""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from rekd_hloc.alignment import Pose
from rekd_hloc.images import list_images, read_color

QUARTER = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
"""turned_from_upright of camera coordinates when the image is turned counter-clockwise once."""


def turn_photos(images: Path, out: Path, seed: int) -> dict[str, int]:
    """Write each image as PNG, turned 0 to 3 times by 90 degrees counter-clockwise.

    Names keep their folder and stem. The turns depend on the seed and the number of images; EXIF
    is not copied.

    Returns:
        The turns of each image by its stem.

    Raises:
        ValueError: two images have one stem.
    """
    names = list_images(images)
    turns = np.random.default_rng(seed).integers(4, size=len(names)).tolist()
    by_stem: dict[str, int] = {}
    for name, turn in zip(names, turns, strict=True):
        target = (out / name).with_suffix(".png")
        if target.stem in by_stem:
            raise ValueError(f"two images are called {target.stem}; rename one")
        by_stem[target.stem] = turn
        target.parent.mkdir(parents=True, exist_ok=True)
        turned = np.ascontiguousarray(np.rot90(read_color(images / name), turn)[..., ::-1])
        if not cv2.imwrite(str(target), turned):
            raise OSError(f"cannot write {target}")
    return by_stem


def turn_reference(reference: Mapping[str, Pose], turns: Mapping[str, int]) -> dict[str, Pose]:
    """True poses of turned images by stem: the camera stays in its place and rolls."""
    turned = {}
    for name, pose in reference.items():
        stem = Path(name).stem if name not in turns else name
        if stem in turns:
            rotation = np.linalg.matrix_power(QUARTER, turns[stem]) @ pose.rotation
            turned[stem] = Pose(rotation, pose.centre)
    return turned
