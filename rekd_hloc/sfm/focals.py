"""The focal lengths that cameras start from, where COLMAP took them from EXIF.

COLMAP trusts every focal length that EXIF has. Some programs and lenses write nonsense there, and
a photo that was cropped keeps what was right for the whole. Such a value is worse than none: it
decides how the first pairs are solved. So what cannot be true gives way to COLMAP's default.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from rekd_hloc.names import counted, list_names
from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.cameras import (
    MAX_FOCAL_RATIO,
    MIN_FOCAL_RATIO,
    CameraPlan,
    is_possible_focal,
)
from rekd_hloc.sfm.image_headers import ImageHeader

logger = logging.getLogger(__name__)


def correct_focals(database: Any, plan: CameraPlan) -> None:
    """Replace the focal lengths of imported cameras by a guess, or by the default where the options
    or the values ask for it; neither counts as known, so COLMAP may change it freely. Fisheyes are
    the exception: see :func:`rekd_hloc.sfm.pycolmap_compat.make_camera`.

    Args:
        database: open, with the images that COLMAP imported.
        plan: of the cameras.
    """
    options = plan.options
    members: dict[int, list[str]] = defaultdict(list)
    for image in database.read_all_images():
        members[int(image.camera_id)].append(image.name)
    impossible: list[str] = []
    cropped: list[str] = []
    for camera in database.read_all_cameras():
        if not len(camera.focal_length_idxs()):
            continue
        names, size = members[int(camera.camera_id)], (int(camera.width), int(camera.height))
        guess, is_known = options.guess_px(size), bool(camera.has_prior_focal_length)
        if guess is None and not is_known and not compat.is_fisheye(camera.model.name):
            continue
        if guess is None and is_known and not options.ignore_exif:
            focal = float(camera.mean_focal_length())
            if not is_possible_focal(focal, size):
                impossible += [f"{name!r} {focal:.0f} px of {size[0]}x{size[1]}" for name in names]
            elif _is_cropped(plan, names):
                cropped += [_describe_crop(name, plan.headers[name]) for name in names]
            else:
                continue
        _replace_focal(database, camera, guess)
    _warn(
        impossible, f"which is not {MIN_FOCAL_RATIO:g} to {MAX_FOCAL_RATIO:g} times the longer side"
    )
    _warn(cropped, "which was cropped since")


def _replace_focal(database: Any, camera: Any, focal: float | None) -> None:
    """Give a camera another focal length; None is the default."""
    size = (int(camera.width), int(camera.height))
    new = compat.make_camera(camera.model.name, *size, [], focal)
    new.camera_id = camera.camera_id
    database.update_camera(new)


def _is_cropped(plan: CameraPlan, names: Sequence[str]) -> bool:
    headers = [plan.headers[name] for name in names if name in plan.headers]
    return len(headers) == len(names) and all(header.is_cropped for header in headers)


def _describe_crop(name: str, header: ImageHeader) -> str:
    taken = header.taken_size or header.size
    return f"{name!r} {header.size[0]}x{header.size[1]} of {taken[0]}x{taken[1]}"


def _warn(images: Sequence[str], reason: str) -> None:
    if images:
        logger.warning(
            "EXIF's focal length is not used for %s (%s), %s: starting from the "
            "default; --focal-guess names another",
            counted(len(images), "image"), list_names(images), reason,
        )  # fmt: skip
