"""A textured wall seen by turned and nearer cameras: photos, features and a COLMAP model."""

import math

import cv2
import numpy as np
import torch

from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Features, Keypoints
from tests.helpers import textured_image

FOCAL, SIZE = 400.0, (320, 240)
VIEWS = [(0.0, 4.0), (0.1, 4.0), (0.15, 3.5), (math.radians(80), 4.0), (math.radians(170), 3.5)]
"""Roll and distance of each camera."""
NUM_POINTS = 60


def camera(roll, distance):
    """World to camera: turned about the axis that the wall, z = 0, is square to."""
    rotation = np.array([
        [math.cos(roll), -math.sin(roll), 0],
        [math.sin(roll), math.cos(roll), 0],
        [0, 0, 1],
    ])  # fmt: skip
    return rotation, np.array([0, 0, distance])


def make_wall(folder, errors=None, hidden=(), merged=()):
    """Photos, a COLMAP model in text form, and features; keypoint i of every photo is point i.

    ``hidden`` are pairs of a photo and a point that the model does not see in it; ``merged`` are
    triples of a photo, a point, and a second keypoint of the photo that is taken for that point.
    """
    rng = np.random.default_rng(0)
    xyz = np.column_stack([rng.uniform(-0.7, 0.7, (NUM_POINTS, 2)), np.zeros(NUM_POINTS)])
    wall = cv2.GaussianBlur(textured_image(600, 600, 3), (0, 0), 3)  # half as many pixels in photos
    world_from_wall = np.array([[1 / 200, 0, -1.5], [0, 1 / 200, -1.5], [0, 0, 1]])
    (folder / "photos").mkdir(parents=True)
    model = folder / "out" / "sparse" / "0"
    model.mkdir(parents=True)
    width, height = SIZE
    (model / "cameras.txt").write_text(
        f"1 SIMPLE_PINHOLE {width} {height} {FOCAL} {width / 2} {height / 2}\n"
    )
    images, seen = [], [[] for _ in range(NUM_POINTS)]
    with FeatureStore.resume(folder / "out" / "features.h5", {"by": "test"}) as store:
        for number, (roll, distance) in enumerate(VIEWS):
            rotation, translation = camera(roll, distance)
            intrinsics = np.array([[FOCAL, 0, width / 2], [0, FOCAL, height / 2], [0, 0, 1]])
            plane = np.column_stack([rotation[:, :2], translation])
            shown = intrinsics @ plane @ world_from_wall
            shown = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]]) @ shown
            name = f"v{number}.png"
            cv2.imwrite(str(folder / "photos" / name), cv2.warpPerspective(wall, shown, SIZE))
            xy = (xyz @ rotation.T + translation) @ intrinsics.T
            xy = xy[:, :2] / xy[:, 2:]
            shows = [i if (number, i) not in hidden else -1 for i in range(NUM_POINTS)]
            for photo, point, other in merged:
                if photo == number:
                    shows[other] = point
            rows = [f"{x} {y} {shows[i] + 1 or -1}" for i, (x, y) in enumerate(xy)]
            quaternion = [math.cos(roll / 2), 0, 0, math.sin(roll / 2)]
            pose = " ".join(map(str, [*quaternion, *translation]))
            images += [f"{number + 1} {pose} 1 {name}", " ".join(rows)]
            for i, point in enumerate(shows):
                if point >= 0:
                    seen[point].append(f"{number + 1} {i}")
            keypoints = Keypoints(
                torch.from_numpy(xy - 0.5).float(),
                torch.full((NUM_POINTS,), 4.0 / distance),
                torch.full((NUM_POINTS,), roll),
                torch.ones(NUM_POINTS),
            )
            store.write(name, Features(keypoints, torch.randn(NUM_POINTS, 128), SIZE))
    (model / "images.txt").write_text("\n".join(images) + "\n")
    errors = np.full(NUM_POINTS, 0.5) if errors is None else errors
    points = [
        f"{i + 1} {' '.join(map(str, xyz[i]))} 9 9 9 {errors[i]} {' '.join(seen[i])}"
        for i in range(NUM_POINTS)
    ]
    (model / "points3D.txt").write_text("\n".join(points) + "\n")
    return folder / "out", folder / "photos"
