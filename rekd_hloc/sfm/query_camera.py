"""Which intrinsics a new image has: those of the model it is looked for in, EXIF's, or none yet.

A pose is no better than the focal length behind it. COLMAP's guess of 1.2 times the longer side may
be off by a quarter, which moves the camera by a tenth of the scene and leaves the inliers as many.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.cameras import is_possible_focal
from rekd_hloc.sfm.image_headers import Size
from rekd_hloc.sfm.intrinsics import (
    direction_shift_px,
    is_scaled,
    parameter_names,
    rotate_parameters,
)
from rekd_hloc.sfm.pycolmap_compat import pycolmap

MAP, EXIF, ESTIMATED, GIVEN = "map", "exif", "estimated", "given"
SAME_FOCAL = 0.05
"""Share by which the focal lengths of a model's cameras of one size may differ from their median
for the median one to stand for a new image."""
CENTRED = 0.005
"""Largest shift between both ways to rotate a camera that counts as none, of the longer side."""


@dataclass(frozen=True)
class QueryCamera:
    """A new image's camera before its pose is known.

    Attributes:
        camera: the ``pycolmap.Camera``.
        source: where its intrinsics come from: ``map``, ``exif``, ``estimated`` or ``given``.
    """

    camera: Any
    source: str


def choose_camera(model: Any, size: tuple[int, int], exif: Any | None = None) -> QueryCamera:
    """Choose the intrinsics of a new image.

    Args:
        model: a ``pycolmap.Reconstruction``.
        size: (width, height) of the image in pixels.
        exif: camera with a focal length from EXIF, None where EXIF has none.

    Returns:
        The model's camera where it has one of that size, or else one of that shape made smaller,
        larger or upright, and all such cameras agree. Else the camera of EXIF. Else one whose focal
        length is to be estimated.
    """
    used = {model.images[i].camera_id for i in model.reg_image_ids()}
    cameras = [model.cameras[camera_id] for camera_id in sorted(used)]
    same = [camera for camera in cameras if (camera.width, camera.height) == size]
    others = [*cameras, *filter(None, map(_rotate, cameras))]
    fitting = same or [_rescale(camera, size) for camera in others if _is_of_shape(camera, size)]
    known = _find_typical(fitting)
    if known is not None and not _contradicts(known, exif):
        return QueryCamera(known, MAP)
    if exif is not None:
        return QueryCamera(exif, EXIF)
    return QueryCamera(compat.make_camera("SIMPLE_RADIAL", *size, []), ESTIMATED)


def read_exif_camera(path: Path, size: tuple[int, int]) -> Any | None:
    """Return the camera of an image's EXIF, None where that gives no possible focal length.

    Args:
        path: of the image.
        size: (width, height) of the image as its features were made.
    """
    try:
        with compat.quiet():
            camera = pycolmap.infer_camera_from_image(str(path))
    except (RuntimeError, ValueError):  # a format that COLMAP does not read
        return None
    fits = (camera.width, camera.height) == size and camera.has_prior_focal_length
    return camera if fits and is_possible_focal(camera.mean_focal_length(), size) else None


def with_focal(camera: Any, focal: float) -> Any:
    """Return a copy of a camera with another mean focal length, in pixels."""
    changed = pycolmap.Camera(camera.todict())
    params = np.array(changed.params, dtype=np.float64)
    indices = list(changed.focal_length_idxs())
    params[indices] *= focal / params[indices].mean()
    changed.params = params.tolist()
    return changed


def _find_typical(cameras: Sequence[Any]) -> Any | None:
    """Return the camera of median focal length if all are alike, None if they differ."""
    if not cameras or len({camera.model.name for camera in cameras}) > 1:
        return None
    ordered = sorted(cameras, key=lambda camera: float(camera.mean_focal_length()))
    typical = ordered[len(ordered) // 2]
    focal = typical.mean_focal_length()
    alike = all(abs(c.mean_focal_length() - focal) <= SAME_FOCAL * focal for c in cameras)
    return pycolmap.Camera(typical.todict()) if alike else None


def _is_of_shape(camera: Any, size: Size) -> bool:
    return is_scaled((camera.width, camera.height), size)


def _rotate(camera: Any) -> Any | None:
    """Return the camera held upright in place of level, or the reverse; None if it is not known.

    The two ways to rotate it differ where the principal point is not the centre.
    """
    model, params, size = camera.model.name, list(camera.params), (camera.width, camera.height)
    if "cx" not in parameter_names(model):
        return None
    if direction_shift_px(model, params, size) > CENTRED * max(size):
        return None
    rotated = pycolmap.Camera(camera.todict())
    rotated.width, rotated.height = camera.height, camera.width
    rotated.params = rotate_parameters(model, params, size, None)
    return rotated


def _rescale(camera: Any, size: tuple[int, int]) -> Any:
    scaled = pycolmap.Camera(camera.todict())
    scaled.rescale(*size)
    return scaled


def _contradicts(known: Any, exif: Any | None) -> bool:
    """Say whether EXIF gives another focal length, as of another zoom."""
    if exif is None:
        return False
    focal = known.mean_focal_length()
    return bool(abs(exif.mean_focal_length() - focal) > 2 * SAME_FOCAL * focal)
