"""A scene of random points in IMC's official layout, with files of its features and matches."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from evaluation.imc.dataset import Scene, read_scene
from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.alignment import read_poses
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.storage.features import FeatureStore, MatchStore
from tests.synthetic_scene import FOCAL, SIZE, make_scene


@dataclass(frozen=True)
class ImcScene:
    """The layout on disk, as it is read, and what was made for it."""

    root: Path
    scene: Scene
    features: Path
    matches: Path
    points: dict[str, np.ndarray]


def make_imc_scene(folder, dataset="phototourism", name="courtyard", **options):
    """Images are empty files: nothing reads them."""
    made = make_scene(folder / "made", **options)
    part = folder / "data" / dataset / name / "set_100"
    (part / "images").mkdir(parents=True)
    (part / "calibration").mkdir()
    intrinsics = np.array([[FOCAL, 0, SIZE[0] / 2], [0, FOCAL, SIZE[1] / 2], [0, 0, 1]])
    with compat.quiet():
        poses = read_poses(pycolmap.Reconstruction(str(made.reference)))
    for image, pose in poses.items():
        (part / "images" / image).touch()
        stem = Path(image).stem
        with h5py.File(part / "calibration" / f"calibration_{stem}.h5", "w") as file:
            file["K"], file["R"], file["T"] = (
                intrinsics,
                pose.rotation,
                -pose.rotation @ pose.centre,
            )
    scene = read_scene(part.parent)
    points = {Path(image).stem: point for image, point in made.points.items()}
    features, matches = folder / "features.h5", folder / "matches.h5"
    with FeatureStore(made.features) as old, FeatureStore.resume(features, {"by": "test"}) as new:
        for image in made.names:
            new.write(Path(image).stem, old.read(image))
    with MatchStore(made.matches) as old, MatchStore.resume(matches, {"by": "test"}) as new:
        for a, b in made.pairs:
            count = len(made.points[a])
            new.write(Path(a).stem, Path(b).stem, old.read(a, b), count)
    return ImcScene(folder / "data", scene, features, matches, points)
