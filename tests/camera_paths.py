"""Scenes of random points seen along a path of cameras, as files of features and matches."""

import numpy as np

from evaluation.rendering.scene import look_at
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from tests import synthetic_scene
from tests.synthetic_scene import FOCAL, SIZE, Scene

FORWARD = np.array([0.0, 1.0, 0.0])
"""Where cameras look; x is right, z is up."""


def room(num_points=400, seed=0):
    """Points at many depths before the origin."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(5, 12, num_points)
    side, height = rng.uniform(-0.9, 0.9, num_points), rng.uniform(-0.4, 0.4, num_points)
    return np.column_stack([side * depth, depth, height * depth])


def corridor(num_points=600, seed=0):
    """Points on the four walls of a corridor along y, and on its end."""
    rng = np.random.default_rng(seed)
    along, across = rng.uniform(1, 14, num_points), rng.uniform(-1, 1, num_points)
    wall = rng.integers(0, 5, num_points)
    x = np.select([wall == 0, wall == 1], [-1.0, 1.0], across)
    z = np.select([wall == 2, wall == 3], [-1.0, 1.0], rng.uniform(-1, 1, num_points))
    return np.column_stack([x, np.where(wall == 4, 14.0, along), z])


def wall(num_points=400, relief=0.0, seed=0):
    """Points of a wall 8 before the origin."""
    rng = np.random.default_rng(seed)
    x, z = rng.uniform(-5, 5, num_points), rng.uniform(-3, 3, num_points)
    return np.column_stack([x, 8 + rng.uniform(-relief, relief, num_points), z])


def directions(num, arc_deg=30.0):
    """Look to the left, to the right, and a little up and down."""
    yaw = np.radians(np.linspace(-arc_deg / 2, arc_deg / 2, num))
    pitch = np.radians([(-3.0, 4.0, 1.0)[i % 3] for i in range(num)])
    return np.column_stack([np.sin(yaw), np.cos(yaw), np.sin(pitch)])


def along_x(length, num):
    """Centres on a line to the right, every other one a little higher."""
    x = np.linspace(-length / 2, length / 2, num)
    return np.column_stack([x, 0 * x, 0.1 * length * (np.arange(num) % 2)])


def make_path_scene(folder, xyz, centres, looks, focals=FOCAL, noise_px=0.3, seed=0):
    """Write features, all true matches and true poses of cameras at the centres.

    ``looks`` are directions, one for each camera or one for all; ``focals`` likewise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "reference").mkdir()
    rng = np.random.default_rng(seed)
    num = len(centres)
    looks, focals = np.broadcast_to(looks, (num, 3)), np.broadcast_to(focals, num)
    basis = synthetic_scene._unit(rng.normal(size=(len(xyz) + 1, 128)))
    features, shown, lines = {}, {}, []
    for index, (centre, look, focal) in enumerate(zip(centres, looks, focals, strict=True)):
        name = f"v{index:02d}.png"
        rotation = look_at(centre, centre + look, 0.0)
        seen = (xyz - centre) @ rotation.T
        xy = seen[:, :2] / seen[:, 2:] * focal + np.array(SIZE) / 2 - 0.5
        inside = (seen[:, 2] > 0.2) & (xy >= 0).all(1) & (xy <= np.array(SIZE) - 1).all(1)
        shown[name] = np.flatnonzero(inside)
        xy = xy[inside] + rng.normal(scale=noise_px, size=(inside.sum(), 2))
        features[name] = synthetic_scene._features(xy, shown[name], basis, rng)
        x, y, z, w = pycolmap.Rotation3d(rotation).quat.tolist()
        pose = [w, x, y, z, *(-rotation @ centre).tolist()]
        lines += [f"{index + 1} {' '.join(map(repr, pose))} 1 {name}", ""]
    (folder / "reference" / "images.txt").write_text("\n".join(lines) + "\n")
    camera = f"1 SIMPLE_PINHOLE {SIZE[0]} {SIZE[1]} {FOCAL} {SIZE[0] / 2} {SIZE[1] / 2}\n"
    (folder / "reference" / "cameras.txt").write_text(camera)
    (folder / "reference" / "points3D.txt").write_text("")
    files = folder / "features.h5", folder / "matches.h5", folder / "reference"
    scene = Scene(*files, list(features), shown)
    synthetic_scene._write(scene, features)
    return scene
