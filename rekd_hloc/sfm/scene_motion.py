"""Which images of a scene were taken from one place: the motion of all its pairs.

A pair alone cannot tell a tripod from two frames of a slow video, so the pairs of a place must all
be without parallax, and images that only the model's tracks connect are looked at too.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.cameras import image_ids
from rekd_hloc.sfm.pair_motion import MIN_MATCHES, Motion, View, find_motion
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.types import Pair

Motions = Mapping[Pair, Motion]

MAX_PAIRS = 300
"""Pairs looked at; of more, evenly spread ones."""
MAX_TRACK_PAIRS = 40
NO_PARALLAX = frozenset({Motion.SAME_VIEW, Motion.ROTATION})
ONE_PLACE = 0.85
"""Share of the pairs without parallax from which on images count as taken from one place."""
PLANAR_NAMES = ("PLANAR", "PANORAMIC", "PLANAR_OR_PANORAMIC")
MIN_PLACE_IMAGES = 3


def find_motions(
    database_path: Path, pairs: Sequence[Pair]
) -> tuple[dict[Pair, Motion], dict[str, int]]:
    """Say what moved between the images of verified pairs.

    Args:
        database_path: with verified pairs.
        pairs: of its images.

    Returns:
        The motion of each pair with enough inliers, of at most ``MAX_PAIRS`` pairs; and how many
        pairs have each of COLMAP's two-view configurations, by its name in small letters.
    """
    motions: dict[Pair, Motion] = {}
    configurations: Counter[str] = Counter()
    every = max(1, -(-len(pairs) // MAX_PAIRS))
    with compat.quiet(), pycolmap.Database.open(str(database_path)) as database:
        views = _Views(database)
        for index, (a, b) in enumerate(pairs):
            geometry = database.read_two_view_geometry(views.ids[a], views.ids[b])
            name = configuration_name(geometry.config)
            configurations[name.lower()] += 1
            inliers = np.asarray(geometry.inlier_matches)
            if index % every == 0 and len(inliers) >= MIN_MATCHES:
                view_a, view_b = views.select(a, inliers[:, 0]), views.select(b, inliers[:, 1])
                motions[a, b] = find_motion(view_a, view_b, planar=name in PLANAR_NAMES)
    return motions, dict(configurations)


def configuration_name(config: Any) -> str:
    """Return COLMAP's name of a two-view configuration, whichever form this pycolmap gives it."""
    return str(pycolmap.TwoViewGeometryConfiguration(int(config)).name)


def lacks_parallax(motions: Motions) -> bool:
    """Say whether nearly all pairs are explained by rotation and zoom alone."""
    still = sum(motion in NO_PARALLAX for motion in motions.values())
    return bool(motions) and still >= ONE_PLACE * len(motions)


def find_track_motions(model: Any, motions: Motions) -> dict[Pair, Motion]:
    """Say what moved between images of a model that share points but were not matched.

    A slow video has no parallax between neighbours, and much between the ends of its tracks.
    """
    images = {model.images[i].name: model.images[i] for i in model.reg_image_ids()}
    seen = {name: _observed_points(image) for name, image in images.items()}
    names = sorted(images)
    unmatched = [
        (a, b)
        for index, a in enumerate(names)
        for b in names[index + 1 :]
        if (a, b) not in motions
        and (b, a) not in motions
        and len(seen[a].keys() & seen[b].keys()) >= MIN_MATCHES
    ]
    every = max(1, -(-len(unmatched) // MAX_TRACK_PAIRS))
    return {
        (a, b): find_motion(*_track_views(model, images, seen, a, b), planar=False)
        for a, b in unmatched[::every]
    }


def find_places(motions: Motions) -> list[list[str]]:
    """Groups of three images or more that were taken from one place, largest first.

    The pairs within a group are all but without exception explained by rotation and zoom.
    """
    neighbours = defaultdict(set)
    for (a, b), motion in motions.items():
        if motion in NO_PARALLAX:
            neighbours[a].add(b)
            neighbours[b].add(a)
    places, left = [], set(neighbours)
    while left:
        group, front = set(), [min(left)]
        while front:
            name = front.pop()
            if name not in group:
                group.add(name)
                front += neighbours[name]
        left -= group
        within = {pair: m for pair, m in motions.items() if group.issuperset(pair)}
        if len(group) >= MIN_PLACE_IMAGES and lacks_parallax(within):
            places.append(sorted(group))
    return sorted(places, key=len, reverse=True)


class _Views:
    """Keypoints and cameras of a database's images, each read once."""

    def __init__(self, database: Any) -> None:
        self.database = database
        self.ids = image_ids(database)
        self.known: dict[str, tuple[Any, tuple[int, int], float | None]] = {}

    def select(self, name: str, rows: Any) -> View:
        if name not in self.known:
            image_id = self.ids[name]
            camera = self.database.read_camera(self.database.read_image(image_id).camera_id)
            xy = self.database.read_keypoints(image_id)[:, :2].astype(np.float64)
            focal = camera.mean_focal_length() if camera.has_prior_focal_length else None
            self.known[name] = xy, (camera.width, camera.height), focal
        xy, size, focal = self.known[name]
        return View(xy[rows], size, focal)


def _observed_points(image: Any) -> dict[int, int]:
    return {p.point3D_id: index for index, p in enumerate(image.points2D) if p.has_point3D()}


def _track_views(
    model: Any, images: Mapping[str, Any], seen: Mapping[str, dict[int, int]], a: str, b: str
) -> tuple[View, View]:
    shared = sorted(seen[a].keys() & seen[b].keys())
    views = []
    for name in (a, b):
        camera = model.cameras[images[name].camera_id]
        xy = np.array([images[name].points2D[seen[name][point]].xy for point in shared])
        views.append(View(xy, (camera.width, camera.height)))
    return views[0], views[1]
