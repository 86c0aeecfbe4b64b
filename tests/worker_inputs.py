"""Images and features that the tests of many workers extract and match."""

import itertools
from dataclasses import replace

import cv2

from rekd_hloc.storage.features import FeatureStore
from tests.helpers import random_features, textured_image

NAMES = ["a.png", "b.png", "c d.png", "sub/e.png"]
PAIRS = list(itertools.combinations(NAMES, 2))
ODD_WIDTH = 80
"""Of b.png alone; workers are made to die on it."""


def write_images(folder):
    """Fill a folder with the images, and with one that cannot be read."""
    (folder / "sub").mkdir()
    for seed, name in enumerate(NAMES):
        width = ODD_WIDTH if name == "b.png" else 96
        assert cv2.imwrite(str(folder / name), textured_image(72, width, seed=seed))
    (folder / "damaged.png").write_bytes(b"no image")
    return folder


def write_features(path):
    """Write features of the images, with keypoints of their own and the same descriptors."""
    a = random_features(60, seed=1)
    with FeatureStore.resume(path, {"config_hash": "abc"}) as store:
        for seed, name in enumerate(NAMES):
            other = random_features(60, seed=seed + 2)
            store.write(name, replace(other, descriptors=a.descriptors))
    return path
