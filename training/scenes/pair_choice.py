"""Which pairs of the photos of a reconstruction are judged: as many of each baseline."""

import numpy as np

from training.scenes.geometry import SceneGeometry

MIN_COMMON_POINTS = 50
"""Scene points that both photos of a pair observe."""
MAX_PAIRS = 30
"""Pairs of a scene, spread over its baselines."""


def choose_pairs(
    geometry: SceneGeometry,
    *,
    max_pairs: int = MAX_PAIRS,
    max_views: int = 0,
    seed: int = 0,
    min_points: int = MIN_COMMON_POINTS,
) -> list[tuple[int, int]]:
    """Choose pairs of the first ``max_views`` views (0: of all), as many of each baseline.

    Pairs observe at least ``min_points`` common points. They are ordered by the angle between
    their rays to these points and cut into ``max_pairs`` parts, each of which gives one, drawn by
    the seed.
    """
    limit = max_views or len(geometry.views)
    covisible = [(i, j) for i, j, _ in geometry.covisible_pairs(min_points) if j < limit]
    ordered = sorted(covisible, key=lambda pair: (_ray_angle(geometry, *pair), pair))
    rng = np.random.default_rng(seed)
    parts = np.array_split(np.arange(len(ordered)), min(max_pairs, len(ordered)) or 1)
    return [ordered[int(rng.choice(part))] for part in parts if len(part)]


def _ray_angle(geometry: SceneGeometry, i: int, j: int) -> float:
    """Median angle between the rays of two views to the points that both observe."""
    of, to = geometry.views[i], geometry.views[j]
    xyz = geometry.xyz[np.intersect1d(of.point, to.point)]
    rays = [xyz + view.translation @ view.rotation for view in (of, to)]
    cosine = (rays[0] * rays[1]).sum(1) / (
        np.linalg.norm(rays[0], axis=1) * np.linalg.norm(rays[1], axis=1)
    )
    return float(np.median(np.arccos(np.clip(cosine, -1, 1))))
