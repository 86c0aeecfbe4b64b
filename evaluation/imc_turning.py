"""A scene whose every second image is turned by an angle of its own, with its calibration.

To turn an image is to roll its camera: with A from :func:`rekd_hloc.turning.canvas_from_photo`
(pixels of the canvas from pixels of the photo) and Z the roll about the optical axis,
``R' = Z R``, ``T' = Z T`` and ``K' = A K Z^-1``, so that ``K' (R' X + T') = A K (R X + T)``.
"""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from evaluation.imc_layout import Camera, Scene
from evaluation.report import write_text
from rekd_hloc.geometry import rotation_about
from rekd_hloc.images import read_color
from rekd_hloc.picture_file import write_image
from rekd_hloc.turning import canvas_from_photo, turn_photo


def turn_camera(camera: Camera, size: tuple[int, int], angle_deg: float) -> Camera:
    """The camera of a photo of (width, height) turned clockwise on its canvas."""
    canvas, _ = canvas_from_photo(size, angle_deg)
    roll = rotation_about(float(np.radians(angle_deg)), (0.0, 0.0)).numpy()
    return Camera(canvas @ camera.K @ roll.T, roll @ camera.R, roll @ camera.T)


def turn_image(path: Path, angle_deg: float, image_out: Path, mask_out: Path) -> None:
    """Write a photo turned clockwise on a canvas, and the mask of its pixels.

    Outside the photo the canvas repeats its edge: black would make corners that no photo has.
    """
    photo = read_color(path)
    height, width = photo.shape[:2]
    matrix, size = canvas_from_photo((width, height), angle_deg)
    canvas = cv2.warpAffine(
        photo, matrix[:2], size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    _, mask = turn_photo(photo, angle_deg)
    write_image(mask_out, mask)
    write_image(image_out, np.asarray(canvas, dtype=np.uint8))


def turn_scene(scene: Scene, seed: int, folder: Path) -> tuple[Scene, dict[str, Path]]:
    """Turn the second, fourth, ... image of a scene in the order of names.

    Files that are there already are kept; angles depend on the seed and the images' names only.

    Args:
        scene: to turn; stays as it is.
        seed: of the angles, anywhere in 0..360 degrees.
        folder: for ``images/NAME.png``, ``masks/NAME.png`` and ``angles.json``.

    Returns:
        The scene with other files and cameras, and the masks of the turned images.

    Raises:
        ValueError: the seed is negative, or an image cannot be read.
    """
    if seed < 0:
        raise ValueError(f"the seed of turning must not be negative, got {seed}")
    names = sorted(scene.images)[1::2]
    drawn = np.random.default_rng(seed).uniform(0.0, 360.0, len(names)).tolist()
    angles = dict(zip(names, drawn, strict=True))
    record = json.dumps(angles, indent=1)
    known = folder / "angles.json"
    is_same = known.is_file() and known.read_text(encoding="utf-8") == record
    images, cameras = dict(scene.images), dict(scene.calibration)
    masks: dict[str, Path] = {}
    for name, angle_deg in tqdm(angles.items(), f"turn {scene.name}", disable=None, leave=False):
        with Image.open(scene.images[name]) as image:
            size = image.size
        images[name] = folder / "images" / f"{name}.png"
        masks[name] = folder / "masks" / f"{name}.png"
        if not (is_same and images[name].is_file() and masks[name].is_file()):
            turn_image(scene.images[name], angle_deg, images[name], masks[name])
        if name in cameras:
            cameras[name] = turn_camera(cameras[name], size, angle_deg)
    if not is_same:
        write_text(known, record)
    return replace(scene, images=images, calibration=cameras), masks
