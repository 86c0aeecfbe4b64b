"""The folder that nerfstudio trains from: ``transforms.json``, and the points as a PLY file.

Cameras look along -z in it, and the world's z points up where COLMAP's y points down.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from rekd_hloc.exports.scene_arrays import (
    FLIP,
    camera_parameters,
    read_images,
    read_points,
    world_from_cam,
)
from rekd_hloc.exports.undistorted import require_photos
from rekd_hloc.files import write_bytes, write_json

TRANSFORMS, POINTS = "transforms.json", "sparse_pc.ply"
APPLIED = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, 0.0]])
"""From COLMAP's world to the one that is written, as nerfstudio's own converter turns it."""
PERSPECTIVE = frozenset(("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"))
FISHEYE = frozenset(("SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "OPENCV_FISHEYE"))
DISTORTION = {"OPENCV": ("k1", "k2", "p1", "p2"), "OPENCV_FISHEYE": ("k1", "k2", "k3", "k4")}
"""Parameters of nerfstudio's camera models."""
VERTEX = [
    ("x", "<f4"), ("y", "<f4"), ("z", "<f4"),
    ("red", "u1"), ("green", "u1"), ("blue", "u1"),
]  # fmt: skip


def write_nerfstudio(model: Any, folder: Path, images: Path | None) -> None:
    """Write cameras and points; the photos stay where they are, and are named from there.

    Raises:
        FileNotFoundError: photos are not in the folder.
        ValueError: a camera model that nerfstudio lacks.
    """
    assert images is not None
    shown = read_images(model)
    require_photos(images, [image.name for image in shown])
    cameras = {i: _describe_camera(model.cameras[i]) for i in {im.camera_id for im in shown}}
    is_shared = len(cameras) == 1
    applied = np.vstack([APPLIED, [0.0, 0.0, 0.0, 1.0]])
    frames = [
        {
            "file_path": _path_from(folder, images / image.name),
            "transform_matrix": (applied @ world_from_cam(image) @ FLIP).tolist(),
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
    xyz, rgb = read_points(model)
    write_bytes(folder / POINTS, encode_ply(xyz @ APPLIED[:, :3].T, rgb))


def encode_ply(xyz: Float[np.ndarray, "point 3"], rgb: UInt8[np.ndarray, "point 3"]) -> bytes:
    """Return coloured points as a binary PLY file."""
    rows = np.empty(len(xyz), dtype=VERTEX)
    for column, name in enumerate("xyz"):
        rows[name] = xyz[:, column]
    for column, name in enumerate(("red", "green", "blue")):
        rows[name] = rgb[:, column]
    kinds = {"<f4": "float", "u1": "uchar"}
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(xyz)}"]
    lines += [f"property {kinds[kind]} {name}" for name, kind in VERTEX]
    return "\n".join([*lines, "end_header\n"]).encode() + rows.tobytes()


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
