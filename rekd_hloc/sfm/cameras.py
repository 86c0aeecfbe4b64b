"""The cameras and images of a COLMAP database.

COLMAP reads what it can from the files itself: size, focal length in EXIF, who shares a camera. An
image that only its features know gets a camera of their size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.pycolmap_compat import pycolmap

CAMERA_MODES = {
    "auto": "AUTO",
    "single": "SINGLE",
    "per_folder": "PER_FOLDER",
    "per_image": "PER_IMAGE",
}


def check_camera(model: str, mode: str, intrinsics: Sequence[float] | None) -> None:
    """Refuse a camera that COLMAP would refuse later, and less clearly.

    Raises:
        ValueError: unknown model or mode, or parameters of another number than the model has.
    """
    known = [name for name in pycolmap.CameraModelId.__members__ if name != "INVALID"]
    if model not in known:
        raise ValueError(f"no camera model {model!r}; COLMAP has {', '.join(known)}")
    if mode not in CAMERA_MODES:
        raise ValueError(f"no camera mode {mode!r}; modes are {', '.join(CAMERA_MODES)}")
    if intrinsics is not None:
        camera = compat.make_camera(model, 1, 1, list(intrinsics))
        if not intrinsics or not camera.verify_params():
            raise ValueError(
                f"camera model {model} takes ({camera.params_info}), got {list(intrinsics)}"
            )


def image_ids(database: Any) -> dict[str, int]:
    """Return the id of each image name in an open database."""
    return {image.name: int(image.image_id) for image in database.read_all_images()}


def import_images(
    database_path: Path,
    image_dir: Path | None,
    names: Sequence[str],
    model: str,
    mode: str,
    intrinsics: Sequence[float] | None,
) -> None:
    """Let COLMAP add the images it can read, with their cameras, to a database made here.

    An image it cannot read, or has no camera for, is left out: see :func:`add_missing_image`.
    """
    with pycolmap.Database.open(str(database_path)):
        pass
    if image_dir is None or not image_dir.is_dir() or not names:
        return
    options = pycolmap.ImageReaderOptions()
    options.camera_model = model
    options.camera_params = ",".join(map(repr, map(float, intrinsics or ())))
    how = getattr(pycolmap.CameraMode, CAMERA_MODES[mode])
    pycolmap.import_images(str(database_path), str(image_dir), how, list(names), options)


def add_missing_image(
    database: Any,
    name: str,
    size: tuple[int, int],
    model: str,
    mode: str,
    intrinsics: Sequence[float] | None,
) -> int:
    """Add an image whose file COLMAP could not read, by the size (width, height) of its features.

    Returns:
        The image's id.
    """
    shared = _shared_camera(database, name, mode)
    if shared is None:
        shared = database.write_camera(compat.make_camera(model, *size, list(intrinsics or ())))
    return compat.add_image(database, name, shared)


def check_size(database: Any, image_id: int, size: tuple[int, int], mode: str) -> None:
    """Refuse features that were not made at the size (width, height) of the image's camera.

    Raises:
        ValueError: the sizes differ; the message says why that can be.
    """
    image = database.read_image(image_id)
    camera = database.read_camera(image.camera_id)
    if (camera.width, camera.height) == size:
        return
    camera_size = f"{camera.width}x{camera.height}"
    if mode in ("single", "per_folder"):
        raise ValueError(
            f"camera mode {mode!r} needs images of one size, {image.name!r} is "
            f"{size[0]}x{size[1]} and its camera {camera_size}; use the mode auto or per_image"
        )
    raise ValueError(
        f"image {image.name!r} is {camera_size} for COLMAP, its features were made at "
        f"{size[0]}x{size[1]}; extract it again"
    )


def _shared_camera(database: Any, name: str, mode: str) -> int | None:
    """Return the camera that an image COLMAP did not import shares with one that is there."""
    if mode not in ("single", "per_folder"):
        return None
    for image in database.read_all_images():
        if mode == "single" or Path(image.name).parent == Path(name).parent:
            return int(image.camera_id)
    return None
