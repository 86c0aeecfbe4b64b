"""A scene of random points with exact poses, as files of features and matches, without images."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Features, Keypoints, Matches

FOCAL = 600.0
SIZE = (640, 480)


@dataclass(frozen=True)
class Scene:
    """Files, and the truth: ``points[name]`` is the scene point of each keypoint, -1 for none."""

    features: Path
    matches: Path
    reference: Path
    names: list[str]
    points: dict[str, np.ndarray]

    @property
    def pairs(self):
        return list(itertools.combinations(self.names, 2))


def make_scene(folder, num_images=6, num_points=150, noise_px=0.2, num_clutter=20, seed=0):
    """Views from all around, rolled as they come, with keypoints in random order."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = _synthesise(num_images, num_points, seed)
    (folder / "reference").mkdir()
    truth.write(str(folder / "reference"))
    rng = np.random.default_rng(seed)
    basis = _unit(rng.normal(size=(num_points + 1, 128)))
    ids = {point: row for row, point in enumerate(sorted(truth.points3D))}
    points = {}
    scene_features = {}
    for image in sorted(truth.images.values(), key=lambda image: image.name):
        seen = [p for p in image.points2D if p.has_point3D()]
        xy = np.array([p.xy for p in seen]) - 0.5 + rng.normal(scale=noise_px, size=(len(seen), 2))
        clutter = rng.uniform((0, 0), (SIZE[0] - 1, SIZE[1] - 1), (num_clutter, 2))
        point = np.array([ids[p.point3D_id] for p in seen] + [-1] * num_clutter)
        xy = np.concatenate([xy, clutter])
        order = rng.permutation(len(xy))
        points[image.name] = point[order]
        scene_features[image.name] = _features(xy[order], point[order], basis, rng)
    scene = Scene(
        folder / "features.h5",
        folder / "matches.h5",
        folder / "reference",
        list(points),
        points,
    )
    _write(scene, scene_features)
    return scene


def true_matches(scene, a, b):
    """Rows (keypoint of a, keypoint of b) that show one scene point."""
    _, index_a, index_b = np.intersect1d(scene.points[a], scene.points[b], return_indices=True)
    rows = np.stack([index_a, index_b], axis=1)
    return rows[scene.points[a][index_a] >= 0]


def _synthesise(num_images, num_points, seed):
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs = 1
    options.num_frames_per_rig = num_images
    options.num_points3D = num_points
    options.camera_width, options.camera_height = SIZE
    options.camera_model_id = pycolmap.CameraModelId.SIMPLE_RADIAL
    options.camera_params = [FOCAL, SIZE[0] / 2, SIZE[1] / 2, 0.0]
    options.num_points2D_without_point3D = 0
    pycolmap.set_random_seed(seed)
    return pycolmap.synthesize_dataset(options)


def _features(xy, point, basis, rng):
    count = len(xy)
    descriptors = _unit(basis[point] + 0.02 * rng.normal(size=(count, 128)))
    clutter = point < 0
    descriptors[clutter] = _unit(rng.normal(size=(clutter.sum(), 128)))
    keypoints = Keypoints(
        xy=torch.tensor(xy, dtype=torch.float32),
        scale=torch.tensor(rng.uniform(0.7, 4.0, count), dtype=torch.float32),
        angle=torch.tensor(rng.uniform(0, 2 * np.pi, count), dtype=torch.float32),
        score=torch.tensor(rng.uniform(0, 1, count), dtype=torch.float32),
    )
    return Features(keypoints, torch.tensor(descriptors, dtype=torch.float32), SIZE)


def _write(scene, features):
    with FeatureStore.resume(scene.features, {"method": "synthetic"}) as store:
        for name, found in features.items():
            store.write(name, found)
    with MatchStore.resume(scene.matches, {"method": "synthetic"}) as store:
        for a, b in scene.pairs:
            index = torch.tensor(true_matches(scene, a, b))
            store.write(a, b, Matches(index, torch.ones(len(index))), len(features[a]))


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
