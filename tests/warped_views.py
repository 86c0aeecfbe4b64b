"""Views of one texture under known similarity maps, with keypoints that lie a little off."""

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import h5py
import numpy as np
import torch

from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Features, Keypoints, Matches
from tests.helpers import textured_image

SIZE = (200, 170)
NOISE_PX = 0.4
NUM_POINTS = 60


@dataclass(frozen=True)
class Views:
    """Where the files are, and the map from the texture to each image."""

    images: Path
    features: Path
    matches: Path
    names: list[str]
    maps: list[np.ndarray]

    def texture_xy(self, path, number):
        """Return where the texture has the keypoints of a view, as a file says."""
        with FeatureStore(path) as store:
            xy = store.read_keypoints(self.names[number]).xy.numpy().astype(float)
        inverse = np.linalg.inv(self.maps[number])
        return xy @ inverse[:2, :2].T + inverse[:2, 2]

    def spread(self, path):
        """Return the median distance in pixels between keypoints of one point in two views."""
        places = [self.texture_xy(path, number) for number in range(len(self.names))]
        gaps = [np.linalg.norm(places[0] - other, axis=1) for other in places[1:]]
        return float(np.median(np.concatenate(gaps)))


def make_views(folder, num_views=3, seed=0):
    """Write images, features and matches of all pairs; keypoint i of each view is point i."""
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(textured_image(400, 400, seed), (0, 0), 1.5)
    points = rng.uniform(155, 245, (NUM_POINTS, 2))
    images = folder / "images"
    images.mkdir(parents=True)
    views = Views(images, folder / "f.h5", folder / "m.h5", [], [])
    config = {"config": '{"descriptor": {"patch_size_px": 64.0}}', "by": "test"}
    with FeatureStore.resume(views.features, config) as store:
        for number in range(num_views):
            angle = 0.5 * number
            center = np.array([200, 200]) + rng.uniform(-5, 5, 2)
            cos, sin = math.cos(angle), math.sin(angle)
            turn = np.array([[cos, -sin], [sin, cos]])
            shift = np.array(SIZE) / 2 - turn @ center
            view_from_texture = np.vstack([np.column_stack([turn, shift]), [0, 0, 1]])
            name = f"v{number}.png"
            image = cv2.warpAffine(texture, view_from_texture[:2], SIZE, flags=cv2.INTER_CUBIC)
            cv2.imwrite(str(images / name), image)
            xy = points @ turn.T + shift + rng.normal(0, NOISE_PX, points.shape)
            keypoints = Keypoints(
                torch.from_numpy(xy).float(),
                torch.ones(NUM_POINTS),
                torch.full((NUM_POINTS,), angle),
                torch.ones(NUM_POINTS),
            )
            store.write(name, Features(keypoints, torch.randn(NUM_POINTS, 128), SIZE))
            views.names.append(name)
            views.maps.append(view_from_texture)
    write_matches(views)
    return views


def write_matches(views):
    """Match point i with point i in all pairs."""
    index = torch.arange(NUM_POINTS).repeat(2, 1).T.contiguous()
    with MatchStore.resume(views.matches, {"by": "test"}) as store:
        for a, first in enumerate(views.names):
            for second in views.names[a + 1 :]:
                store.write(first, second, Matches(index, torch.ones(NUM_POINTS)), NUM_POINTS)


def make_foreign(views, path, *, half=False, more=()):
    """Write what hloc writes of an extractor without scales and angles; returns its file."""
    with FeatureStore(views.features) as store, h5py.File(path, "w", libver="latest") as file:
        for name in views.names:
            group = file.create_group(name)
            xy = store.read_keypoints(name).xy.numpy().astype(np.float16 if half else np.float64)
            group["keypoints"], group["image_size"] = xy, np.array(SIZE)
            group["keypoints"].attrs["uncertainty"] = 2.0
            group["descriptors"] = np.zeros((16, NUM_POINTS), np.float16)
            for key, value in dict(more).items():
                group[key] = value
    return path
