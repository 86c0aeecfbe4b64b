"""Pairs with known poses from a text file, or from a COLMAP model: for one's own data.

A line of the text file is ``name0 name1 rot0 rot1 K0(9) K1(9) T_0to1(16)``, row by row, as the
lists of ScanNet, MegaDepth and YFCC that SuperGlue's authors published; the two rotations may be
left out. ``x_1 = R x_0 + t`` with T = [R t; 0 1]. Intrinsics are those of the image as it is in
its file; an image with rot = k is looked at after k rotations by 90 degrees counter-clockwise.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from evaluation.extractors.extraction import image_size
from evaluation.relative_pose.dataset import (
    CORNER_PX,
    Camera,
    PairSet,
    PosePair,
    all_pairs,
    rotate_camera,
    rotate_image_file,
)
from rekd_hloc.sfm import pycolmap_compat as compat

NUM_NUMBERS = 9 + 9 + 16
ROTATION_TOLERANCE = 1e-3
MAX_DISTORTION_PX = 0.5
"""A camera whose pixels lie farther from those of a pinhole camera counts as distorted."""


def read_pair_list(path: Path, images: Path, rotated: Path) -> PairSet:
    """Read the pairs of a text file.

    Args:
        path: the list; empty lines and lines that begin with # are left out.
        images: folder that its names are relative to.
        rotated: folder for images that the list wants rotated.

    Raises:
        FileNotFoundError: no such list or image.
        ValueError: a line is not of that form, or its T is no rigid motion; it is named.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no list of pairs {path}")
    files: dict[str, Path] = {}
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            names, quarters, cameras = _parse(words)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        shown = [
            _show(name, quarter, camera, images, rotated, files)
            for name, quarter, camera in zip(names, quarters, cameras, strict=True)
        ]
        known = dict(shown)
        if len(known) < 2:
            raise ValueError(f"{path}, line {number}: an image is paired with itself")
        pairs.append(PosePair.from_cameras((shown[0][0], shown[1][0]), known))
    if not pairs:
        raise ValueError(f"{path} lists no pair")
    return PairSet(path.stem, files, pairs)


def read_model_pairs(
    model: Path, images: Path, covisibility: float, *, exhaustive: bool = False
) -> PairSet:
    """Read the pairs of a COLMAP model's registered images.

    Args:
        model: folder with cameras, images and points3D, .bin or .txt.
        images: folder of its images.
        covisibility: least share of the scene points of the image with fewer that the other
            sees too.
        exhaustive: all pairs instead.

    Raises:
        FileNotFoundError: no such model or image.
        ValueError: the model cannot be read, has distorted cameras, or gives no pair.
    """
    reconstruction = compat.read_reconstruction(model)
    cameras, seen = {}, {}
    for image_id in reconstruction.reg_image_ids():
        image = reconstruction.images[image_id]
        pose = image.cam_from_world()
        intrinsics = _intrinsics(reconstruction.cameras[image.camera_id], image.name)
        cameras[image.name] = Camera(
            intrinsics, np.asarray(pose.rotation.matrix()), np.asarray(pose.translation)
        )
        seen[image.name] = {p.point3D_id for p in image.points2D if p.has_point3D()}
    files = {name: images / name for name in cameras}
    if missing := [path for path in files.values() if not path.is_file()]:
        raise FileNotFoundError(f"no image {missing[0]}; --images is the folder of {model}'s names")
    pairs = [
        PosePair.from_cameras(pair, cameras)
        for pair in all_pairs(cameras)
        if exhaustive or _overlap(seen[pair[0]], seen[pair[1]]) >= covisibility
    ]
    if not pairs:
        raise ValueError(
            f"{model} has no pair of covisibility {covisibility:g} among {len(cameras)} images; "
            "lower it, or take all pairs"
        )
    return PairSet(model.resolve().name, files, pairs)


def _parse(words: Sequence[str]) -> tuple[Sequence[str], list[int], list[Camera]]:
    names, rest = words[:2], words[2:]
    quarters = ["0", "0"]
    if len(rest) == NUM_NUMBERS + 2:
        quarters, rest = list(rest[:2]), rest[2:]
    if len(rest) != NUM_NUMBERS:
        raise ValueError(
            f"has {len(words)} words, not 38 (name0 name1 rot0 rot1 K0 K1 T_0to1) or 36 without rot"
        )
    values = np.array([float(word) for word in rest])
    motion = values[18:].reshape(4, 4)
    rotation = motion[:3, :3]
    off = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if off > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
        raise ValueError(f"T_0to1 is no rigid motion: its R is off a rotation by {off:.2g}")
    if np.abs(motion[3] - [0, 0, 0, 1]).max() > ROTATION_TOLERANCE:
        raise ValueError(f"the last row of T_0to1 must be 0 0 0 1, got {motion[3]}")
    first = Camera(values[:9].reshape(3, 3), np.eye(3), np.zeros(3))
    second = Camera(values[9:18].reshape(3, 3), rotation, motion[:3, 3])
    return names, [int(quarter) % 4 for quarter in quarters], [first, second]


def _show(
    name: str, quarter: int, camera: Camera, images: Path, rotated: Path, files: dict[str, Path]
) -> tuple[str, Camera]:
    """Name and camera of an image as it is looked at; its file goes to ``files``."""
    path = images / name
    if not path.is_file():
        raise FileNotFoundError(f"no image {path}")
    if quarter == 0:
        files[name] = path
        return name, camera
    shown = f"{name}@rot{quarter}"
    angle_deg = 360.0 - 90.0 * quarter  # np.rot90 is counter-clockwise
    if shown not in files:
        files[shown] = rotated / "images" / f"{shown}.png"
        if not files[shown].is_file():
            rotate_image_file(path, angle_deg, files[shown], rotated / "masks" / f"{shown}.png")
    return shown, rotate_camera(camera, image_size(path), angle_deg)


def _intrinsics(camera: Any, name: str) -> Float64[np.ndarray, "3 3"]:
    """K in this project's pixel frame; refuses cameras that K does not describe."""
    matrix = np.asarray(camera.calibration_matrix(), dtype=np.float64)
    to_ray: Callable[[Any], Any] = camera.cam_from_img
    for x, y in itertools.product((0.0, camera.width), (0.0, camera.height)):
        ray = np.asarray(to_ray(np.array([x, y])))
        off = np.linalg.norm((matrix @ [*ray[:2], 1.0])[:2] - [x, y])
        if not off <= MAX_DISTORTION_PX:
            raise ValueError(
                f"the camera of {name} is distorted ({off:.1f} px in a corner); undistort the "
                "images and the model first: colmap image_undistorter"
            )
    matrix[:2, 2] -= CORNER_PX
    return matrix


def _overlap(a: set[int], b: set[int]) -> float:
    return len(a & b) / max(min(len(a), len(b)), 1)
