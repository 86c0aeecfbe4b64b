"""Images rotated by any angle, on a canvas that holds them, with a mask of the valid area.

For tests and demonstrations of rotation: what is upright in a folder of images becomes arbitrary,
and true poses stay known, because to rotate an image is to roll its camera.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from rekd_hloc.geometry import rotation_about
from rekd_hloc.image_listing import list_images
from rekd_hloc.images import read_color, write_image
from rekd_hloc.sfm.alignment import Pose

EDGE = 1e-6
"""Tolerance in pixels, so that rotations by 90 degrees keep every pixel."""


def canvas_from_image(
    size: tuple[int, int], angle_deg: float
) -> tuple[Float64[np.ndarray, "3 3"], tuple[int, int]]:
    """Return the map from an image to the smallest canvas that holds it rotated, and its size.

    Args:
        size: (width, height) of the image.
        angle_deg: clockwise in image coordinates.

    Returns:
        The 3x3 map of pixel centres; centre goes to centre. (width, height) of the canvas.
    """
    width, height = size
    cos, sin = abs(np.cos(np.radians(angle_deg))), abs(np.sin(np.radians(angle_deg)))
    canvas_width = int(np.ceil(width * cos + height * sin - EDGE))
    canvas_height = int(np.ceil(width * sin + height * cos - EDGE))
    centre = ((width - 1) / 2, (height - 1) / 2)
    shift = np.eye(3)
    shift[:2, 2] = (canvas_width - 1) / 2 - centre[0], (canvas_height - 1) / 2 - centre[1]
    rotation = rotation_about(float(np.radians(angle_deg)), centre).numpy()
    return shift @ rotation, (canvas_width, canvas_height)


def rotate_image(
    image_rgb: UInt8[np.ndarray, "height width 3"], angle_deg: float
) -> tuple[
    UInt8[np.ndarray, "canvas_height canvas_width 3"],
    UInt8[np.ndarray, "canvas_height canvas_width"],
]:
    """Rotate an image clockwise by an angle, and make the mask of its pixels.

    Returns:
        The canvas, black outside the image, and the mask: 255 where the canvas shows the image
        alone, 0 elsewhere. Multiples of 90 degrees move pixels without change.
    """
    height, width = image_rgb.shape[:2]
    matrix, size = canvas_from_image((width, height), angle_deg)
    canvas = cv2.warpAffine(
        image_rgb, matrix[:2], size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    image_from_canvas = np.linalg.inv(matrix)
    rows, columns = np.mgrid[: size[1], : size[0]].astype(np.float64)
    inside = np.ones((size[1], size[0]), bool)
    for row, side in ((image_from_canvas[0], width), (image_from_canvas[1], height)):
        coordinate = row[0] * columns + row[1] * rows + row[2]
        inside &= (coordinate >= -EDGE) & (coordinate <= side - 1 + EDGE)
    mask = np.asarray(inside, dtype=np.uint8) * np.uint8(255)
    return np.asarray(canvas, dtype=np.uint8) * inside[..., None], mask


def rotate_folder(images: Path, out: Path, seed: int) -> dict[str, float]:
    """Rotate every image of a folder by an angle of its own, anywhere in 0..360 degrees.

    Writes ``images/NAME.png``, ``masks/NAME.png.png`` (as COLMAP names masks) and ``angles.json``;
    NAME is the image's, with its folder and without its ending.

    Args:
        images: folder of images, searched with its subfolders.
        out: folder to write.
        seed: of the angles; they depend on nothing else but the number of images.

    Returns:
        The angle in degrees of each new name.

    Raises:
        ValueError: two images differ in their ending only, or one cannot be read.
        FileNotFoundError: there is no such folder.
        OSError: a file cannot be written.
    """
    names = list_images(images)
    drawn = np.random.default_rng(seed).uniform(0.0, 360.0, len(names)).tolist()
    angles: dict[str, float] = {}
    for name, angle_deg in zip(names, drawn, strict=True):
        new_name = Path(name).with_suffix(".png").as_posix()
        if new_name in angles:
            raise ValueError(f"two images would become {new_name}; rename one of them")
        angles[new_name] = angle_deg
        canvas, mask = rotate_image(read_color(images / name), angle_deg)
        write_image(out / "images" / new_name, canvas)
        write_image(out / "masks" / f"{new_name}.png", mask)
    (out / "angles.json").write_text(json.dumps(angles, indent=1), encoding="utf-8")
    return angles


def rotate_poses(reference: Mapping[str, Pose], angles: Mapping[str, float]) -> dict[str, Pose]:
    """Return true poses of rotated images: each camera keeps its centre and rolls about its axis.

    Args:
        reference: poses by the name of the upright image, with or without ending.
        angles: what :func:`rotate_folder` returned; images without a pose are left out.
    """
    known = dict(reference) | {_bare(name): pose for name, pose in reference.items()}
    rotated = {}
    for name, angle_deg in angles.items():
        pose = known.get(_bare(name)) or known.get(Path(name).stem)
        if pose is not None:
            roll = rotation_about(float(np.radians(angle_deg)), (0.0, 0.0)).numpy()
            rotated[name] = Pose(roll @ pose.rotation, pose.centre)
    return rotated


def _bare(name: str) -> str:
    return Path(name).with_suffix("").as_posix()
