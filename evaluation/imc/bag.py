"""One bag of images: a COLMAP model from stored features and matches, and its pose errors.

As in the official benchmark, COLMAP is given features and raw matches of all pairs of the bag and
verifies them itself with its default settings; it is not given the calibration. Each image has a
camera of its own with one radial distortion, whose focal length starts from COLMAP's guess (the
benchmark's images have no EXIF) and is refined. The model with most images counts; an image that is
not in it makes every pair that it belongs to a failure.
"""

import hashlib
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pycolmap
from numpy.typing import NDArray

from evaluation.metrics.pose import FAILED, pose_error_deg, relative_pose
from evaluation.relative_pose.estimation import ResultLog
from rekd_hloc.sfm.alignment import Pose, align_to_reference, read_poses
from rekd_hloc.sfm.database import colmap_keypoints, export_database, stored_patch_size_px
from rekd_hloc.sfm.mapping import map_scene
from rekd_hloc.sfm.verification import verify
from rekd_hloc.storage.features import FeatureStore, MatchStore

CAMERA_MODEL = "SIMPLE_RADIAL"
CAMERA_MODE = "per_image"
MAX_ERROR_PX = 4.0
MAX_TRIALS = 10_000
MIN_INLIER_RATIO = 0.25
"""COLMAP's defaults for verification, which the benchmark leaves as they are."""
VERSION = 3
"""Part of every key: to be raised when the same inputs are to give other results."""


@dataclass(frozen=True)
class BagTask:
    """What is needed to reconstruct one bag, in any process.

    Attributes:
        names: of the images.
        database: by :func:`make_database`, with all their pairs; it is only read.
        poses: true ones of the whole scene.
        seed: of the mapping.
    """

    names: tuple[str, ...]
    database: Path
    poses: Mapping[str, Pose]
    seed: int


@dataclass(frozen=True)
class BagResult:
    """Metrics of one bag.

    Attributes:
        names: of its images.
        seed: of verification and mapping.
        errors_deg: of all pairs in the order of ``itertools.combinations(names, 2)``: the larger
            of rotation error and sign-free translation direction error; inf for a failure.
        num_registered: images in the largest model.
        num_points: scene points of it.
        track_length: images that see a point, on average; None without a model.
        ate_rel: root mean square distance of the aligned camera centres from the true ones as a
            share of the scene's extent; None where fewer than three centres off one line are known.
        seconds: of mapping.
    """

    names: tuple[str, ...]
    seed: int
    errors_deg: tuple[float, ...]
    num_registered: int
    num_points: int
    track_length: float | None
    ate_rel: float | None
    seconds: float

    def to_record(self) -> dict[str, Any]:
        """Return values that JSON can hold: failures are null."""
        finite = [error if np.isfinite(error) else None for error in self.errors_deg]
        return {**asdict(self), "errors_deg": finite}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Invert :meth:`to_record`."""
        errors = [np.inf if error is None else float(error) for error in record["errors_deg"]]
        return cls(**{**record, "names": tuple(record["names"]), "errors_deg": tuple(errors)})


def reconstruct_bag(task: BagTask) -> BagResult:
    """Reconstruct one bag in a temporary folder and compare it with the true poses.

    Raises:
        ValueError: an image without a true pose.
    """
    start = time.perf_counter()
    if missing := [name for name in task.names if name not in task.poses]:
        raise ValueError(f"image {missing[0]!r} has no true pose; it cannot be in a bag")
    models = _reconstruct(task)
    model = models[0] if models else None
    poses = read_poses(model) if model is not None else {}
    return BagResult(
        names=task.names,
        seed=task.seed,
        errors_deg=tuple(_pair_errors(task.names, poses, task.poses)),
        num_registered=len(poses),
        num_points=int(model.num_points3D()) if model is not None else 0,
        track_length=float(model.compute_mean_track_length()) if model is not None else None,
        ate_rel=_ate(poses, task.poses),
        seconds=time.perf_counter() - start,
    )


def make_database(
    path: Path,
    features: FeatureStore,
    matches: MatchStore,
    pairs: Collection[tuple[str, str]],
    seed: int,
    *,
    num_threads: int = 1,
) -> None:
    """Write the verified database that bags share: a pair's geometry is the same in all of them.

    Args:
        path: to write, or to go on with.
        features: of the images.
        matches: of the pairs.
        pairs: that are in some bag.
        seed: of verification.
        num_threads: pairs verified at once.

    Raises:
        ValueError: an image or a pair is not in the stores.
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        export_database(
            path, None, features, matches, pairs,
            names={name for pair in pairs for name in pair}, camera_model=CAMERA_MODEL,
            camera_mode=CAMERA_MODE, patch_size_px=stored_patch_size_px(features),
        )  # fmt: skip
    verify(
        path, pairs, seed, max_error_px=MAX_ERROR_PX, max_trials=MAX_TRIALS,
        min_inlier_ratio=MIN_INLIER_RATIO, num_threads=num_threads, progress=True,
    )  # fmt: skip


class Digests:
    """Keys of bags, from the keypoints and matches themselves; each is read once."""

    def __init__(self, features: FeatureStore, matches: MatchStore) -> None:
        self._features, self._matches = features, matches
        self._patch_size_px = stored_patch_size_px(features)
        self._known: dict[tuple[str, ...], str] = {}

    def key(self, names: Sequence[str], poses: Mapping[str, Pose], seed: int) -> str:
        """Return a hash of what the result of a bag depends on.

        Args:
            names: of the bag's images.
            poses: true ones of the whole scene.
            seed: of verification and mapping.

        Raises:
            ValueError: an image or a pair is not in the stores.
        """
        digest = hashlib.sha256()
        settings = (VERSION, pycolmap.__version__, CAMERA_MODEL, CAMERA_MODE, seed, names)
        digest.update(json.dumps(settings).encode())
        for name in names:
            digest.update(self._image(name).encode())
        for pair in itertools.combinations(names, 2):
            digest.update(self._pair(*pair).encode())
        for name, pose in sorted(poses.items()):
            digest.update(name.encode() + pose.rotation.tobytes() + pose.centre.tobytes())
        return digest.hexdigest()[:24]

    def _image(self, name: str) -> str:
        if (name,) not in self._known:
            entry = self._features.read(name)
            rows = colmap_keypoints(entry.keypoints, self._patch_size_px)
            text = f"{entry.image_size} {rows.shape}".encode()
            self._known[name,] = hashlib.sha256(text + rows.tobytes()).hexdigest()
        return self._known[name,]

    def _pair(self, a: str, b: str) -> str:
        if (a, b) not in self._known:
            index = self._matches.read(a, b).index.numpy()
            rows = np.ascontiguousarray(index, dtype=np.int64)
            self._known[a, b] = hashlib.sha256(rows.tobytes()).hexdigest()
        return self._known[a, b]


def open_bag_log(path: Path) -> ResultLog[BagResult]:
    """Open the finished bags of a file."""
    return ResultLog(path, BagResult.from_record)


def _reconstruct(task: BagTask) -> list[Any]:
    """COLMAP's models, the largest first."""
    with tempfile.TemporaryDirectory() as folder:
        no_colours = Path(folder) / "none"
        sparse = Path(folder) / "sparse"
        # two processes cannot open one database: COLMAP opens it to write
        copy = Path(folder) / "database.db"
        shutil.copyfile(task.database, copy)
        return map_scene(
            copy, no_colours, sparse, seed=task.seed, structure_less=False, names=task.names
        )


def _pair_errors(
    names: Sequence[str], poses: Mapping[str, Pose], true: Mapping[str, Pose]
) -> Iterator[float]:
    for a, b in itertools.combinations(names, 2):
        if a in poses and b in poses:
            yield pose_error_deg(_relative(poses[a], poses[b]), _relative(true[a], true[b]))
        else:
            yield FAILED


def _relative(a: Pose, b: Pose) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return relative_pose(a.rotation, -a.rotation @ a.centre, b.rotation, -b.rotation @ b.centre)


def _ate(poses: Mapping[str, Pose], true: Mapping[str, Pose]) -> float | None:
    try:
        errors = align_to_reference(poses, true)
    except ValueError:  # too few centres, or on one line
        return None
    return float(np.sqrt((errors.center_rel**2).mean()))
