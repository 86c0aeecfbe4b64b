"""The photographed corner of :mod:`tests.corner_scene` in IMC's official layout."""

import itertools
import shutil

import h5py
import numpy as np

from evaluation.metrics.pose import rotation_error_deg
from tests.corner_scene import FOCAL, SIZE, make_photos

K_OF_FILES = np.array([[FOCAL, 0, SIZE[0] / 2], [0, FOCAL, SIZE[1] / 2], [0, 0, 1]])
"""COLMAP's frame: half a pixel more than the renderer's."""


def make_layout(root, num_views=5, dataset="phototourism", name="corner", with_pairs=True, seed=0):
    """Write <dataset>/<name>/set_100; returns its folder."""
    part = root / dataset / name / "set_100"
    scratch = root / "scratch"
    photos = make_photos(scratch, num_views, seed)
    (part / "images").mkdir(parents=True)
    (part / "calibration").mkdir()
    names, rotations = [], []
    for photo in photos:
        stem = photo.removesuffix(".png")
        new = stem.replace(" ", "_")
        names.append(new)
        shutil.move(scratch / "images" / photo, part / "images" / f"{new}.png")
        with h5py.File(scratch / "reference" / f"calibration_{stem}.h5") as file:
            rotation, translation = np.array(file["R"]), np.array(file["T"])
        rotations.append(rotation)
        write_calibration(part / "calibration" / f"calibration_{new}.h5", rotation, translation)
    shutil.rmtree(scratch)
    assert rotation_error_deg(rotations[0], rotations[1]) > 5
    if with_pairs:
        keys = [f"{b}-{a}" for a, b in itertools.combinations(sorted(names), 2)]
        write_pairs(part, {"0.0": keys, "0.1": keys[1:], "0.9": []})
    return part


def write_calibration(path, rotation, translation, intrinsics=K_OF_FILES):
    with h5py.File(path, "w") as file:
        file["K"], file["R"], file["T"] = intrinsics, rotation, translation
        file["q"] = np.zeros(4)


def write_pairs(part, keys_by_threshold):
    (part / "new-vis-pairs").mkdir(exist_ok=True)
    for threshold, keys in keys_by_threshold.items():
        np.save(part / "new-vis-pairs" / f"keys-th-{threshold}.npy", np.array(keys))
