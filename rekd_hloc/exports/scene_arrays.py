"""Points and cameras of a model as arrays, which the writers share."""

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
"""From COLMAP's camera (x right, y down, z forward) to OpenGL's (x right, y up, z backward), and
back."""


def read_points(model: Any) -> tuple[Float[np.ndarray, "point 3"], UInt8[np.ndarray, "point 3"]]:
    """Return positions and colours (RGB) of a model's points, by rising id."""
    points = [model.points3D[i] for i in sorted(model.point3D_ids())]
    xyz = np.array([point.xyz for point in points], dtype=np.float64).reshape(-1, 3)
    rgb = np.array([point.color for point in points], dtype=np.uint8).reshape(-1, 3)
    return xyz, rgb


def read_images(model: Any) -> list[Any]:
    """Return the images that have poses, by name."""
    images = [model.images[i] for i in model.reg_image_ids()]
    return sorted(images, key=lambda image: str(image.name))


def cam_from_world(image: Any) -> Float[np.ndarray, "4 4"]:
    """Return an image's pose as a matrix."""
    matrix = np.eye(4)
    matrix[:3] = image.cam_from_world().matrix()
    return matrix


def world_from_cam(image: Any) -> Float[np.ndarray, "4 4"]:
    """Return where an image's camera is, as a matrix."""
    return np.asarray(np.linalg.inv(cam_from_world(image)))


def camera_parameters(camera: Any) -> dict[str, float]:
    """Return a camera's parameters by COLMAP's names; ``f`` stands for ``fx`` and ``fy`` too."""
    names = [name.strip() for name in camera.params_info.split(",")]
    values = dict(zip(names, map(float, camera.params), strict=True))
    if "f" in values:
        values["fx"] = values["fy"] = values["f"]
    if "k" in values:
        values["k1"] = values["k"]
    return values
