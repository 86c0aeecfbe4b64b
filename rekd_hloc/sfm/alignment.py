"""How far estimated camera poses are from true ones, after a similarity on the camera centres.

A reconstruction has its own frame, so poses compare only after a similarity: here Umeyama's
closed form on the camera centres of the images both know, fitted by a deterministic RANSAC with
least squares on its inliers, so that one camera gone astray is charged to itself and not to all.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rekd_hloc.sfm import pycolmap_compat as compat

Array = NDArray[np.float64]

INLIER_EXTENT = 0.05
"""Centres within this share of the reference's extent support a similarity."""
MAX_SAMPLES = 2000
"""Triples of centres tried; all of them up to 23 images."""
MIN_SPREAD = 1e-3
"""Centres whose second principal spread is less than this share of the first lie on a line."""
REFINEMENTS = 10


@dataclass(frozen=True)
class Pose:
    """Where a camera is: ``x_camera = rotation @ (x_world - centre)``.

    ``pycolmap.Rigid3d`` holds a translation in place of the centre, and its names differ between
    versions of pycolmap; errors and alignment need the centre.
    """

    rotation: Array
    centre: Array


@dataclass(frozen=True)
class Similarity:
    """``x_dst = scale * rotation @ x_src + translation``."""

    scale: float
    rotation: Array
    translation: Array

    def apply(self, points: Array) -> Array:
        """Move points of shape (point, 3)."""
        moved: Array = self.scale * points @ self.rotation.T + self.translation
        return moved


@dataclass(frozen=True)
class PoseErrors:
    """Errors of the images that a model and a reference share, in the order of ``names``.

    Attributes:
        names: of the compared images.
        rotation_deg: angle between true and aligned orientation, degrees.
        center_rel: distance of the camera centres as a share of ``extent``.
        extent: largest distance between two of the reference's camera centres, all of them.
        reference_from_model: the similarity that aligned them.
    """

    names: tuple[str, ...]
    rotation_deg: Array
    center_rel: Array
    extent: float
    reference_from_model: Similarity


def read_reference(path: Path) -> dict[str, Pose]:
    """True poses from a COLMAP model's folder, or from a folder of IMC ``calibration_*.h5``.

    IMC files hold K, R, T with ``x = R X + T``; their keys here are the names of images without
    suffix. A COLMAP model's keys are its image names.

    Raises:
        FileNotFoundError: the folder is missing, or holds neither.
        ValueError: a file in it cannot be read.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"no reference folder {path}")
    calibrations = sorted(path.glob("calibration_*.h5"))
    if calibrations:
        return {f.stem.removeprefix("calibration_"): _read_calibration(f) for f in calibrations}
    if not any((path / f"images.{kind}").is_file() for kind in ("bin", "txt")):
        raise FileNotFoundError(
            f"{path} holds no reference: neither a COLMAP model (images.bin or images.txt) "
            "nor calibration_*.h5"
        )
    return read_poses(compat.read_reconstruction(path))


def read_poses(model: Any) -> dict[str, Pose]:
    """Return the pose of each registered image of a ``pycolmap.Reconstruction``."""
    poses = {}
    for image_id in model.reg_image_ids():
        image = model.images[image_id]
        rotation = np.asarray(image.cam_from_world().rotation.matrix(), dtype=np.float64)
        poses[image.name] = Pose(rotation, np.asarray(image.projection_center(), np.float64))
    return poses


def align_to_reference(model: Any, reference: Mapping[str, Pose]) -> PoseErrors:
    """Return errors of a model's poses against true ones.

    Args:
        model: a ``pycolmap.Reconstruction``, or poses by name.
        reference: true poses; an image is looked up by its name, then by its name without folder
            and suffix.

    Raises:
        ValueError: fewer than three common images, or their centres lie on one line or in one
            point, which leaves a rotation open.
    """
    poses = dict(model) if isinstance(model, Mapping) else read_poses(model)
    common = {name: key for name in sorted(poses) if (key := _find(name, reference)) is not None}
    if len(set(common.values())) < len(common):
        raise ValueError("two images of the model stand for one image of the reference")
    if len(common) < 3:
        raise ValueError(
            f"a similarity needs 3 images with a true pose, the model has {len(common)} of them"
        )
    estimated = np.array([poses[name].centre for name in common])
    true = np.array([reference[key].centre for key in common.values()])
    extent = compute_extent(np.array([pose.centre for pose in reference.values()]))
    similarity = fit_robustly(estimated, true, INLIER_EXTENT * extent)
    center = np.linalg.norm(similarity.apply(estimated) - true, axis=1) / extent
    rotation = [
        rotation_angle_deg(poses[n].rotation @ similarity.rotation.T, reference[k].rotation)
        for n, k in common.items()
    ]
    return PoseErrors(tuple(common), np.array(rotation), center, extent, similarity)


def compute_extent(centres: Array) -> float:
    """Return largest distance between two of the points, shape (point, 3)."""
    return max(float(np.linalg.norm(centres - centre, axis=1).max()) for centre in centres)


def rotation_angle_deg(a: Array, b: Array) -> float:
    """Angle in degrees of the rotation between two rotation matrices, exact near 0 too."""
    between = a @ b.T
    axis = np.array(
        [
            between[2, 1] - between[1, 2],
            between[0, 2] - between[2, 0],
            between[1, 0] - between[0, 1],
        ]
    )
    return float(np.degrees(np.arctan2(np.linalg.norm(axis), np.trace(between) - 1.0)))


def fit_similarity(src: Array, dst: Array) -> Similarity:
    """Least-squares similarity from points to points, shape (point, 3) (Umeyama 1991).

    Raises:
        ValueError: fewer than three points, or points on one line.
    """
    src_mean, dst_mean = src.mean(0), dst.mean(0)
    src_centred, dst_centred = src - src_mean, dst - dst_mean
    if len(src) < 3 or not (_spans_plane(src_centred) and _spans_plane(dst_centred)):
        raise ValueError("camera centres lie on one line; they leave the rotation open")
    u, spread, vt = np.linalg.svd(dst_centred.T @ src_centred)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(signs) @ vt
    scale = float((spread * signs).sum() / (src_centred**2).sum())
    return Similarity(scale, rotation, dst_mean - scale * rotation @ src_mean)


def fit_robustly(src: Array, dst: Array, threshold: float) -> Similarity:
    """Similarity with the least truncated squared error over triples, refined on its inliers.

    With no point beyond ``threshold`` it is the plain least-squares fit. Deterministic.

    Raises:
        ValueError: as :func:`fit_similarity`.
    """

    def cost(similarity: Similarity) -> float:
        return float(np.minimum(_squared_errors(similarity, src, dst), threshold**2).sum())

    best = fit_similarity(src, dst)
    best_cost = cost(best)
    for start in _iterate_triples(len(src)):
        sample = np.array(start)
        for _ in range(REFINEMENTS):
            try:
                candidate = fit_similarity(src[sample], dst[sample])
            except ValueError:
                break
            if cost(candidate) < best_cost:
                best, best_cost = candidate, cost(candidate)
            inliers = np.flatnonzero(_squared_errors(candidate, src, dst) < threshold**2)
            if len(inliers) < 3 or np.array_equal(inliers, sample):
                break
            sample = inliers
    return best


def _squared_errors(similarity: Similarity, src: Array, dst: Array) -> Array:
    errors: Array = ((similarity.apply(src) - dst) ** 2).sum(1)
    return errors


def _iterate_triples(count: int) -> list[tuple[int, ...]]:
    triples = count * (count - 1) * (count - 2) // 6
    if triples <= MAX_SAMPLES:
        return list(itertools.combinations(range(count), 3))
    generator = np.random.default_rng(0)
    return [tuple(generator.choice(count, 3, replace=False).tolist()) for _ in range(MAX_SAMPLES)]


def _spans_plane(centred: Array) -> bool:
    spread = np.linalg.svd(centred, compute_uv=False)
    return bool(len(spread) > 1 and spread[1] > MIN_SPREAD * spread[0])


def _find(name: str, reference: Mapping[str, Pose]) -> str | None:
    stem = Path(name).stem
    return next((key for key in (name, stem) if key in reference), None)


def _read_calibration(path: Path) -> Pose:
    try:
        with h5py.File(path, "r") as file:
            rotation = np.asarray(file["R"], dtype=np.float64).reshape(3, 3)
            translation = np.asarray(file["T"], dtype=np.float64).reshape(3)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no IMC calibration with R and T: {error}") from error
    return Pose(rotation, -rotation.T @ translation)
