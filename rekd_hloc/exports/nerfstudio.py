"""The folder that nerfstudio trains from: ``transforms.json``, and the points as a PLY file.

Cameras look along -z in it, and the world's z points up where COLMAP's y points down.
"""

import copy
import os
from pathlib import Path
from typing import Any

import numpy as np

from rekd_hloc.exports.scene_arrays import (
    FLIP,
    camera_parameters,
    read_images,
    world_from_cam,
)
from rekd_hloc.exports.undistorted import require_photos
from rekd_hloc.files import write_json
from rekd_hloc.sfm.pycolmap_compat import pycolmap

TRANSFORMS, POINTS = "transforms.json", "sparse_pc.ply"
APPLIED = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, 0.0]])
"""From COLMAP's world to the one that is written, as nerfstudio's own converter turns it."""
PERSPECTIVE = frozenset(("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"))
FISHEYE = frozenset(("SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "OPENCV_FISHEYE"))
DISTORTION = {"OPENCV": ("k1", "k2", "p1", "p2"), "OPENCV_FISHEYE": ("k1", "k2", "k3", "k4")}
"""Parameters of nerfstudio's camera models."""


def write_nerfstudio(model: Any, folder: Path, images: Path | None) -> None:
    """Write cameras and points; the photos stay where they are, and are named from there.

    Raises:
        FileNotFoundError: photos are not in the folder.
        ValueError: a camera model that nerfstudio lacks.
    """
    assert images is not None
    model = copy.deepcopy(model)
    model.transform(pycolmap.Sim3d(1.0, pycolmap.Rotation3d(APPLIED[:, :3]), np.zeros(3)))
    shown = read_images(model)
    require_photos(images, [image.name for image in shown])
    cameras = {i: _describe_camera(model.cameras[i]) for i in {im.camera_id for im in shown}}
    is_shared = len(cameras) == 1
    frames = [
        {
            "file_path": _path_from(folder, images / image.name),
            "transform_matrix": (world_from_cam(image) @ FLIP).tolist(),
            "colmap_im_id": int(image.image_id),
            **({} if is_shared else cameras[image.camera_id]),
        }
        for image in shown
    ]
    record = {
        **(next(iter(cameras.values())) if is_shared else {}),
        "frames": frames,
        "applied_transform": APPLIED.tolist(),
        "ply_file_path": POINTS,
    }
    write_json(folder / TRANSFORMS, record)
    model.export_PLY(str(folder / POINTS))


def _path_from(folder: Path, photo: Path) -> str:
    """Return a photo's path as seen from the folder that is written, which lies beside this one."""
    return Path(os.path.relpath(photo.resolve(), folder.resolve())).as_posix()


def _describe_camera(camera: Any) -> dict[str, Any]:
    model = camera.model.name
    if model not in PERSPECTIVE | FISHEYE:
        raise ValueError(
            f"nerfstudio has no camera model {model}; export with --to undistorted, and then the "
            "model in its folder"
        )
    kind = "OPENCV" if model in PERSPECTIVE else "OPENCV_FISHEYE"
    values = camera_parameters(camera)
    return {
        "camera_model": kind,
        "w": int(camera.width),
        "h": int(camera.height),
        **{ours: values[theirs] for ours, theirs in
           (("fl_x", "fx"), ("fl_y", "fy"), ("cx", "cx"), ("cy", "cy"))},
        **{name: values.get(name, 0.0) for name in DISTORTION[kind]},
    }  # fmt: skip
