"""A scene whose every second image is rotated by an angle of its own, with its calibration."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from evaluation.extractors.extraction import file_digest
from evaluation.imc.dataset import Scene
from evaluation.relative_pose.dataset import rotate_camera, rotate_image_file
from rekd_hloc.files import write_text


def rotate_scene(scene: Scene, seed: int, folder: Path) -> tuple[Scene, dict[str, Path]]:
    """Rotate the second, fourth, ... image of a scene in the order of names.

    Files that exist already are used, unless an image has other bytes now; angles depend on the
    seed and the images' names only.

    Args:
        scene: to rotate; stays as it is.
        seed: of the angles, anywhere in 0..360 degrees.
        folder: for ``images/NAME.png``, ``masks/NAME.png`` and ``rotations.json``.

    Returns:
        The scene with other files and cameras, and the masks of the rotated images.

    Raises:
        ValueError: the seed is negative, or an image cannot be read.
    """
    if seed < 0:
        raise ValueError(f"the seed of rotation must not be negative, got {seed}")
    names = sorted(scene.images)[1::2]
    drawn = np.random.default_rng(seed).uniform(0.0, 360.0, len(names)).tolist()
    angles = dict(zip(names, drawn, strict=True))
    sources = {name: file_digest(scene.images[name]) for name in names}
    record = json.dumps({"angles_deg": angles, "sha256": sources}, indent=1)
    known = folder / "rotations.json"
    is_same = known.is_file() and known.read_text(encoding="utf-8") == record
    images, cameras = dict(scene.images), dict(scene.calibration)
    masks: dict[str, Path] = {}
    for name, angle_deg in tqdm(angles.items(), f"rotate {scene.name}", disable=None, leave=False):
        with Image.open(scene.images[name]) as image:
            size = image.size
        images[name] = folder / "images" / f"{name}.png"
        masks[name] = folder / "masks" / f"{name}.png"
        if not (is_same and images[name].is_file() and masks[name].is_file()):
            rotate_image_file(scene.images[name], angle_deg, images[name], masks[name])
        if name in cameras:
            cameras[name] = rotate_camera(cameras[name], size, angle_deg)
    if not is_same:
        write_text(known, record)
    return replace(scene, images=images, calibration=cameras), masks
