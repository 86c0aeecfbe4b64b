"""What differs between pycolmap 3.13 and 4.2, in one place.

Every other module calls pycolmap only through names that all these releases share. numpy is
imported before pycolmap on purpose, here and everywhere: if pycolmap 4.2 is the first extension
that a process loads, its zlib displaces the system's, and OpenCV aborts when it writes a PNG.
Modules that need no numpy import pycolmap from here.
"""

import contextlib
import errno
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap as pycolmap
from numpy.typing import NDArray

from rekd_hloc.files import explain_os_error

if threading.current_thread() is threading.main_thread():  # no other may
    # COLMAP's log takes SIGTERM over when it is loaded, and answers with a trace of its own
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)

GLOG_FATAL = 3
FISHEYE_FOCAL_FACTOR = 0.5
"""Of the longer side, which then sees 115 degrees; action cameras have 0.45 to 0.5."""
FULL_BYTES = 1 << 20
"""With less free space than this, a failed write is taken for a full disk."""


@contextlib.contextmanager
def quiet(level: int = GLOG_FATAL) -> Iterator[None]:
    """Keep COLMAP's own log below ``level`` off stderr: this package reports every failure."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = level
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn failures to write ``path``, for which COLMAP names no cause, into an OSError that does.

    Inside, no ``pycolmap.DatabaseTransaction``: where it cannot commit because the disk is full,
    pycolmap 4.2 ends the process. Without one a failed write is an exception, and no slower.
    """
    try:
        yield
    except OSError as error:
        raise (disk_full(path) if error.errno == errno.ENOSPC else error) from error
    except RuntimeError as error:
        if shutil.disk_usage(path.parent).free < FULL_BYTES:
            raise disk_full(path) from error
        reason = str(error).strip() or "COLMAP gives no reason"
        raise OSError(f"cannot write {path}: {reason.splitlines()[0]}") from error


@contextlib.contextmanager
def open_database(path: Path) -> Iterator[Any]:
    """Open a database to read it; COLMAP writes beside it for that, and needs room.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    with quiet(), write_errors(path), pycolmap.Database.open(str(path)) as database:
        yield database


def require_space(path: Path, num_bytes: int) -> None:
    """Refuse to start on a file for which the disk has no room.

    Raises:
        OSError: (ENOSPC) fewer than ``num_bytes`` are free.
    """
    if shutil.disk_usage(path.parent).free < num_bytes:
        raise disk_full(path)


def disk_full(path: Path) -> OSError:
    """The error to raise where there is no room for ``path``, in words that say what to do."""
    return explain_os_error(OSError(errno.ENOSPC, ""), path, kept_in=path.parent)


def read_reconstruction(path: Path) -> Any:
    """Return the ``pycolmap.Reconstruction`` of a folder.

    Raises:
        FileNotFoundError: it holds no model.
        ValueError: the model is damaged.
    """
    if not any((path / f"images.{kind}").is_file() for kind in ("bin", "txt")):
        raise FileNotFoundError(f"{path} holds no COLMAP model: no images.bin or images.txt")
    try:
        with quiet():
            return pycolmap.Reconstruction(str(path))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is no readable COLMAP model: {error}") from error


def set_options(options: Any, **values: Any) -> Any:
    """Set those attributes that this release has; nested ones as ``mapper__random_seed``.

    Returns:
        ``options`` itself, changed in place.
    """
    for name, value in values.items():
        *parents, leaf = name.split("__")
        section = options
        for parent in parents:
            section = getattr(section, parent, None)
        if section is not None and hasattr(section, leaf):
            setattr(section, leaf, value)
    return options


def write_descriptor_codes(database: Any, image_id: int, codes: NDArray[np.uint8]) -> None:
    """Store SIFT-like descriptors, one row of 128 bytes each."""
    if hasattr(pycolmap, "FeatureDescriptors"):  # 4.0 and later
        kind = pycolmap.FeatureExtractorType.SIFT
        database.write_descriptors(image_id, pycolmap.FeatureDescriptors(type=kind, data=codes))
    else:
        database.write_descriptors(image_id, codes)


def read_descriptor_codes(database: Any, image_id: int) -> NDArray[np.uint8]:
    """Return the bytes that :func:`write_descriptor_codes` stored."""
    stored = database.read_descriptors(image_id)
    return np.asarray(getattr(stored, "data", stored), dtype=np.uint8)


def has_geometry(database: Any, id_a: int, id_b: int) -> bool:
    """Say whether a two-view geometry of these images is stored, with inliers or without."""
    exists = getattr(database, "exists_two_view_geometry", None)
    return bool((exists or database.exists_inlier_matches)(id_a, id_b))  # renamed in 4.0


def make_camera(
    model: str, width: int, height: int, params: list[float], focal: float | None = None
) -> Any:
    """Make a camera; without parameters, with a focal length, or with :func:`default_focal`.

    Parameters count as known, and any focal length of a fisheye: COLMAP 4.2 verifies no pair of
    fisheyes otherwise.
    """
    camera = pycolmap.Camera({"model": model, "width": width, "height": height, "params": params})
    if params:
        camera.has_prior_focal_length = True
        return camera
    if focal is None:
        focal = default_focal(model, (width, height))
    # 4.2 renamed it
    create = getattr(pycolmap.Camera, "create_from_model_id", None) or pycolmap.Camera.create
    created = create(0, camera.model, focal, width, height)
    created.has_prior_focal_length = is_fisheye(model)
    return created


def default_focal(model: str, size: tuple[int, int]) -> float:
    """Return the focal length in pixels that a camera starts from of which nothing is known.

    It is COLMAP's, but for fisheyes, for which COLMAP's would mean 48 degrees of view.
    """
    factor = pycolmap.ImageReaderOptions().default_focal_length_factor
    return float(FISHEYE_FOCAL_FACTOR if is_fisheye(model) else factor) * max(size)


def is_fisheye(model: str) -> bool:
    """Say whether the focal length of a camera model is pixels a radian."""
    return "FISHEYE" in model


def add_image(database: Any, name: str, camera_id: int) -> int:
    """Add an image whose file COLMAP itself cannot read, alone in its frame.

    Returns:
        The image's id.
    """
    camera = database.read_camera(camera_id)
    rig_id = None
    for known in database.read_all_rigs():
        if known.is_ref_sensor(camera.sensor_id):
            rig_id = known.rig_id
    if rig_id is None:
        rig = pycolmap.Rig()
        rig.add_ref_sensor(camera.sensor_id)
        rig_id = database.write_rig(rig)
    image = pycolmap.Image()
    image.name = name
    image.camera_id = camera_id
    image.image_id = database.write_image(image)
    frame = pycolmap.Frame()
    frame.rig_id = rig_id
    frame.add_data_id(image.data_id)
    if hasattr(frame, "finalize_data_ids"):  # 4.2 and later
        frame.finalize_data_ids()
    database.write_frame(frame)
    return int(image.image_id)


def has_global_mapper() -> bool:
    """Say whether this release has the global mapper (4.0 and later)."""
    return hasattr(pycolmap, "global_mapping")
