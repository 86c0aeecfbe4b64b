"""Calibrated images, and turning them.

To turn an image is to roll its camera. With A from
:func:`evaluation.rotated_images.canvas_from_image` (pixels of the canvas from pixels of the photo)
and Z the roll about the optical axis, ``R' = Z R``, ``T' = Z T`` and ``K' = A K Z^-1``, so that
``K' (R' X + T') = A K (R X + T)``.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float64

from evaluation.rotated_images import canvas_from_image, rotate_image
from rekd_hloc.geometry import rotation_about
from rekd_hloc.images import read_color
from rekd_hloc.picture_file import write_image
from rekd_hloc.sfm.alignment import Pose

CORNER_PX = 0.5
"""COLMAP's K, and so the benchmark's, counts from the corner of the first pixel, this project from
its centre."""


@dataclass(frozen=True, eq=False)
class Camera:
    """One calibrated image: ``x_camera = R X + T``, pixel = K x_camera.

    Attributes:
        K: intrinsics in pixels whose (0, 0) is the centre of the first pixel.
        R: rotation from the world to the camera.
        T: translation from the world to the camera, in the scene's unit.
    """

    K: Float64[np.ndarray, "3 3"]
    R: Float64[np.ndarray, "3 3"]
    T: Float64[np.ndarray, " 3"]

    @property
    def pose(self) -> Pose:
        """The same as rotation and camera centre."""
        return Pose(self.R, -self.R.T @ self.T)


def rotate_camera(camera: Camera, size: tuple[int, int], angle_deg: float) -> Camera:
    """The camera of a photo of (width, height) turned clockwise on its canvas."""
    canvas, _ = canvas_from_image(size, angle_deg)
    roll = rotation_about(float(np.radians(angle_deg)), (0.0, 0.0)).numpy()
    return Camera(canvas @ camera.K @ roll.T, roll @ camera.R, roll @ camera.T)


def rotate_image_file(path: Path, angle_deg: float, image_out: Path, mask_out: Path) -> None:
    """Write a photo turned clockwise on a canvas, and the mask of its pixels.

    Outside the photo the canvas repeats its edge: black would make corners that no photo has.
    """
    photo = read_color(path)
    height, width = photo.shape[:2]
    matrix, size = canvas_from_image((width, height), angle_deg)
    canvas = cv2.warpAffine(
        photo, matrix[:2], size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    _, mask = rotate_image(photo, angle_deg)
    write_image(mask_out, mask)
    write_image(image_out, np.asarray(canvas, dtype=np.uint8))
