"""Photos without lens distortion, and the model that belongs to them.

The folder is a workspace of COLMAP's dense reconstruction. It holds the model in ``sparse`` for
COLMAP and OpenMVS, and once more in ``sparse/0`` for programs of Gaussian splatting.
"""

import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from rekd_hloc.exports.model_folder import PHOTOS
from rekd_hloc.exports.scene_arrays import camera_parameters
from rekd_hloc.names import counted, list_names
from rekd_hloc.sfm.output_folder import MODEL
from rekd_hloc.sfm.pycolmap_compat import pycolmap, read_reconstruction

PINHOLE = "PINHOLE"

SPLATTING = "0"
"""Folder in ``sparse`` where programs of Gaussian splatting look for the model."""


def write_undistorted(model: Any, folder: Path, images: Path | None) -> None:
    """Write undistorted photos with a model of pinhole cameras.

    Raises:
        FileNotFoundError: photos are not in the folder.
        ValueError: COLMAP cannot read some of them.
    """
    write_openmvs(model, folder, images)
    sparse = folder / MODEL
    (sparse / SPLATTING).mkdir()
    for path in sorted(sparse.glob("*.bin")):
        shutil.copyfile(path, sparse / SPLATTING / path.name)


def write_openmvs(model: Any, folder: Path, images: Path | None) -> None:
    """Write the same without ``sparse/0``: what OpenMVS's InterfaceCOLMAP begins from.

    Raises:
        FileNotFoundError, ValueError: as :func:`write_undistorted`.
    """
    assert images is not None
    names = sorted(model.images[i].name for i in model.reg_image_ids())
    require_photos(images, names)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".rekd_hloc-") as plain:
        model.write(plain)
        pycolmap.undistort_images(str(folder), plain, str(images))
    unread = [name for name in names if not (folder / PHOTOS / name).is_file()]
    if unread:
        raise ValueError(
            f"COLMAP cannot read {counted(len(unread), 'photo')} of the model: "
            f"{list_names(unread)}; save them as JPEG or PNG and reconstruct these"
        )
    _use_pinhole_cameras(folder / MODEL)


def _use_pinhole_cameras(folder: Path) -> None:
    """Call cameras without distortion what they are: COLMAP leaves those that had none before."""
    model = read_reconstruction(folder)
    for camera in model.cameras.values():
        if camera.model.name != PINHOLE:
            values = camera_parameters(camera)
            camera.model = getattr(pycolmap.CameraModelId, PINHOLE)
            camera.params = [values[name] for name in ("fx", "fy", "cx", "cy")]
    model.write(str(folder))


def require_photos(images: Path, names: Collection[str]) -> None:
    """Refuse a folder that lacks photos.

    Raises:
        FileNotFoundError: it does.
    """
    missing = [name for name in names if not (images / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{images} lacks {counted(len(missing), 'photo')} of the model: {list_names(missing)}; "
            "name the folder of the photos with --images"
        )
