"""What a reconstruction left in its output folder, read for a report page."""

import itertools
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.alignment import Pose, PoseErrors, align_to_reference, read_poses
from rekd_hloc.sfm.cameras import image_ids
from rekd_hloc.sfm.output_folder import REFINED_FEATURES
from rekd_hloc.sfm.verification import Counts
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Keypoints, Matches, Pair
from rekd_hloc.viz.run_report import read_report


@dataclass(frozen=True, eq=False)
class RunFiles:
    """What a run of ``reconstruct`` wrote, without its model.

    Attributes:
        output: folder that ``reconstruct`` wrote.
        image_dir: folder of its images.
        report: what is in ``report.json``.
        counts: matches and inliers of each pair; empty without a database.
        names: images of those pairs, sorted.
    """

    output: Path
    image_dir: Path
    report: Mapping[str, Any]
    counts: Counts
    names: list[str]

    @classmethod
    def read(cls, output: Path, image_dir: Path) -> Self:
        """Read a run's report and database.

        Raises:
            FileNotFoundError: no ``report.json`` in the folder.
            ValueError: the report is damaged.
        """
        report = read_report(output)
        counts = read_counts(output / "database.db")
        names = sorted({name for pair in counts for name in pair})
        return cls(output, image_dir, report, counts, names)

    def find_store(self, kind: str) -> Path | None:
        """Return the file of features or matches that the model is of; None if there is none.

        A run from files of another folder has none in its output, but its report names them.
        """
        is_refined = kind == "features" and "refinement" in self.report
        inside = self.output / (REFINED_FEATURES if is_refined else f"{kind}.h5")
        if inside.is_file():
            return inside
        named = self.report.get("configuration", {}).get(kind)
        with suppress(OSError):  # a name that no file system takes
            return Path(named) if named and Path(named).is_file() else None
        return None


@dataclass(frozen=True, eq=False)
class SparseModel:
    """The largest model of a run, in the frame of the true poses where there are any.

    Attributes:
        poses: of the registered images, by name.
        points: 3-D points, shape (point, 3).
        errors: against the true poses; None without them, or if they cannot be aligned.
        model: the ``pycolmap.Reconstruction`` in its own frame, with the points in their order.
    """

    poses: dict[str, Pose]
    points: Float64[np.ndarray, "point 3"]
    errors: PoseErrors | None
    model: Any


def read_keypoints(path: Path, names: list[str]) -> dict[str, Keypoints]:
    """Read the keypoints of images; those that the features file does not hold are left out."""
    with FeatureStore(path) as store:
        return {name: store.read_keypoints(name) for name in names if name in store}


def read_counts(database_path: Path) -> Counts:
    """Count matches and inliers of every pair in a database; empty if there is no database."""
    counts: Counts = {}
    if not database_path.is_file():
        return counts
    with compat.open_database(database_path) as database:
        ids = image_ids(database)
        for a, b in itertools.combinations(sorted(ids), 2):
            if not database.exists_matches(ids[a], ids[b]):
                continue
            matches = len(database.read_matches(ids[a], ids[b]))
            counts[a, b] = matches, len(_read_inliers(database, ids[a], ids[b]))
    return counts


def read_pairs(
    database_path: Path, pairs: Iterable[Pair]
) -> dict[Pair, tuple[Matches, Bool[np.ndarray, " match"]]]:
    """Read matches of pairs, and which of them agree with the pair's two-view geometry."""
    wanted = list(pairs)
    if not wanted:
        return {}
    with compat.open_database(database_path) as database:
        ids = image_ids(database)
        return {pair: _read_pair(database, ids[pair[0]], ids[pair[1]]) for pair in wanted}


def _read_pair(database: Any, id_a: int, id_b: int) -> tuple[Matches, Bool[np.ndarray, " match"]]:
    index = np.asarray(database.read_matches(id_a, id_b), dtype=np.int64).reshape(-1, 2)
    inliers = _read_inliers(database, id_a, id_b)
    is_inlier = np.isin(match_codes(index), match_codes(inliers))
    return Matches(torch.from_numpy(index), torch.ones(len(index))), is_inlier


def match_codes(index: Int64[np.ndarray, "match 2"]) -> Int64[np.ndarray, " match"]:
    """Return one number for each match, the same for the same two keypoints."""
    codes: Int64[np.ndarray, " match"] = (index[:, 0] << 32) + index[:, 1]
    return codes


def read_model(output: Path, reference: Mapping[str, Pose] | None) -> SparseModel | None:
    """Read ``sparse/0`` of an output folder and move it into the reference's frame if possible.

    Returns:
        The model; None if there is none.

    Raises:
        ValueError: the model is damaged.
    """
    folder = output / "sparse" / "0"
    if not folder.is_dir():
        return None
    model = compat.read_reconstruction(folder)
    poses = read_poses(model)
    points = np.array([p.xyz for p in model.points3D.values()], dtype=np.float64).reshape(-1, 3)
    errors = None
    if reference is not None:
        with suppress(ValueError):  # too few common images, or on one line
            errors = align_to_reference(model, reference)
    if errors is None:
        return SparseModel(poses, points, None, model)
    move = errors.reference_from_model
    moved = {
        name: Pose(pose.rotation @ move.rotation.T, move.apply(pose.centre[None])[0])
        for name, pose in poses.items()
    }
    return SparseModel(moved, move.apply(points), errors, model)


def _read_inliers(database: Any, id_a: int, id_b: int) -> Int64[np.ndarray, "inlier 2"]:
    if not compat.has_geometry(database, id_a, id_b):
        return np.zeros((0, 2), np.int64)
    geometry = database.read_two_view_geometry(id_a, id_b)
    return np.asarray(geometry.inlier_matches, dtype=np.int64).reshape(-1, 2)
