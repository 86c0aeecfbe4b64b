"""Tracks of keypoints that no match has joined: they lie at the same place of a model's surface.

A track of matched keypoints (:mod:`training.scenes.matched_tracks`) shows a descriptor only what it
could match before. Here the planes of a reconstruction, which may be of other features, say which
keypoints of two photos are one point. Where a photo has no keypoint at the place, one is put there
with the errors that keypoints have, so that it is learned all the same.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from scipy.spatial import cKDTree

from rekd_hloc.geometry import TWO_PI
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Keypoints
from training.scenes.cut_tracks import Observations, View, cut_tracks
from training.scenes.geometry import SceneGeometry
from training.scenes.transfer import LiftedKeypoints, carry, lift, scene_points
from training.tracks import TrackConfig, Tracks

logger = logging.getLogger(__name__)

MIN_COMMON_POINTS = 20
"""Fewest scene points that two photos share, for keypoints to be carried between them."""
POSITION_ERROR = 0.7
"""Standard deviation along either axis of a keypoint about the place of its partner, in units of
its scale."""
SCALE_ERROR = 0.12
"""The same of the logarithm of its scale."""
ANGLE_ERROR = 0.12
"""The same of its angle, radians."""


@dataclass(frozen=True, eq=False)
class _Scene:
    """A model, this project's keypoints in its photos, and their planes."""

    geometry: SceneGeometry
    keypoints: list[Keypoints]
    lifted: list[LiftedKeypoints]


@dataclass(frozen=True, eq=False)
class _Found:
    """Where the keypoints of one view lie in another.

    Attributes:
        carried: as the planes put them there.
        is_seen: whether they are seen.
        partner: the keypoint that lies there, or -1.
    """

    carried: Keypoints
    is_seen: Bool[np.ndarray, " keypoint"]
    partner: Int64[np.ndarray, " keypoint"]


def make_transferred_tracks(
    features: Path,
    model: Path,
    images: Path,
    config: TrackConfig,
    rng: np.random.Generator,
    *,
    max_tracks: int,
    placed_share: float,
) -> list[Tracks]:
    """Make tracks of the keypoints in a features file through a model's planes.

    Args:
        features: this project's features of the photos.
        model: folder of a COLMAP model of the same photos, of any features.
        images: folder of the photos.
        config: how patches are cut, and how far keypoints of a track may disagree.
        rng: draws which tracks are taken, where keypoints are placed, and factors on patch sizes.
        max_tracks: largest number of tracks.
        placed_share: share of the views of a track without a keypoint that get a placed one.

    Returns:
        The tracks, grouped by the first photo that shows them.

    Raises:
        FileNotFoundError: no such model, features or photo.
        ValueError: features and model have no photo in common, or no keypoint can be carried.
    """
    scene = _read(features, model, images)
    observed, xyz, placed = _join(scene, config, rng, placed_share)
    if len(xyz) == 0:
        raise ValueError(
            f"no keypoint of {features} can be carried between the photos of {model}; leave the "
            "scene out"
        )
    chosen = np.sort(rng.permutation(len(xyz))[:max_tracks])
    row = np.full(len(xyz), -1)
    row[chosen] = np.arange(len(chosen))
    kept = observed[row[observed.point] >= 0]
    kept = replace(kept, point=row[kept.point])
    views = [
        View(
            path=view.path,
            size=view.size,
            keypoints=Keypoints.concatenate([own, *added]),
            rotation=view.rotation,
            centre=-view.rotation.T @ view.translation,
            focal_px=float(view.camera.mean_focal_length()),
        )
        for view, own, added in zip(scene.geometry.views, scene.keypoints, placed, strict=True)
    ]
    logger.info("%s: %d of %d tracks, %d patches", model, len(chosen), len(xyz), len(kept.point))
    return cut_tracks(views, kept, xyz[chosen], config, rng)


def _read(features: Path, model: Path, images: Path) -> _Scene:
    geometry = SceneGeometry.read(model, images)
    with FeatureStore(features) as store:
        known = set(store.names())
        views = tuple(view for view in geometry.views if view.name in known)
        if not views:
            raise ValueError(f"{features} has no photo of {model}; both must be of one folder")
        geometry = replace(geometry, views=views)
        keypoints = [store.read_keypoints(view.name) for view in views]
    lifted = [lift(geometry, number, points) for number, points in enumerate(keypoints)]
    return _Scene(geometry, keypoints, lifted)


def _join(
    scene: _Scene, config: TrackConfig, rng: np.random.Generator, placed_share: float
) -> tuple[Observations, Float64[np.ndarray, "track 3"], list[list[Keypoints]]]:
    """Make each keypoint that is in no track yet the first of one, photo after photo."""
    count = len(scene.keypoints)
    taken = [np.zeros(len(points), dtype=bool) for points in scene.keypoints]
    placed: list[list[Keypoints]] = [[] for _ in range(count)]
    lengths = [len(points) for points in scene.keypoints]
    others = _partners_of_views(scene.geometry)
    rows: list[tuple[Int64[np.ndarray, " row"], ...]] = []
    places, num_tracks = [], 0
    for first in range(count):
        views = [view for view in others[first] if view > first]
        if not views:
            continue
        found = {view: _find(scene, first, view, config) for view in views}
        # the entry behind the last answers for -1
        is_free = {view: np.append(~taken[view], False) for view in views}
        is_partner = {view: is_free[view][there.partner] for view, there in found.items()}
        starts = ~taken[first] & np.any(list(is_partner.values()), axis=0)
        number = np.cumsum(starts) - 1 + num_tracks
        rows.append((number[starts], np.full(starts.sum(), first), np.flatnonzero(starts)))
        for view, there in found.items():
            own = starts & is_partner[view]
            rows.append((number[own], np.full(own.sum(), view), there.partner[own]))
            taken[view][there.partner[own]] = True
            lacking = starts & there.is_seen & (there.partner < 0)
            lacking &= rng.random(len(lacking)) < placed_share
            added = _with_errors(there.carried[torch.from_numpy(lacking)], rng)
            index = lengths[view] + np.arange(len(added))
            rows.append((number[lacking], np.full(len(added), view), index))
            placed[view].append(added)
            lengths[view] += len(added)
        taken[first] |= starts
        places.append(scene_points(scene.geometry, scene.lifted[first])[starts])
        num_tracks += int(starts.sum())
    table = np.concatenate([np.column_stack(part) for part in rows] or [np.zeros((0, 3))])
    table = table[np.lexsort((table[:, 1], table[:, 0]))].astype(np.int64)
    xyz = np.concatenate([*places, np.zeros((0, 3))])
    return Observations(*table.T), xyz, placed


def _partners_of_views(geometry: SceneGeometry) -> list[list[int]]:
    others: list[list[int]] = [[] for _ in geometry.views]
    for i, j, _ in geometry.covisible_pairs(MIN_COMMON_POINTS):
        others[i].append(j)
        others[j].append(i)
    return others


def _find(scene: _Scene, of: int, to: int, config: TrackConfig) -> _Found:
    """Find the keypoints of a view in another; partners are the nearest of each other."""
    carried, is_seen = carry(scene.geometry, scene.lifted[of], to)
    own = scene.keypoints[to]
    partner = np.full(len(carried), -1)
    if len(own) and is_seen.any():
        forth = _nearest(carried, own, config)
        back_carried, is_seen_back = carry(scene.geometry, scene.lifted[to], of)
        back = _nearest(back_carried, scene.keypoints[of], config)
        back[~is_seen_back] = -1
        rows = np.arange(len(carried))
        agrees = is_seen & (forth >= 0) & (back[forth] == rows)
        partner[agrees] = forth[agrees]
    return _Found(carried, is_seen, partner)


def _nearest(a: Keypoints, b: Keypoints, config: TrackConfig) -> Int64[np.ndarray, " keypoint_a"]:
    """For each keypoint of a, the nearest of b that agrees in position, scale and angle, or -1."""
    reach = config.distance_px
    num = min(8, len(b))
    distance, near = cKDTree(b.xy.double().numpy()).query(a.xy.double().numpy(), k=num)
    distance, near = distance.reshape(len(a), num), near.reshape(len(a), num)
    scale_a, scale_b = a.scale.numpy()[:, None], b.scale.numpy()[near]
    turned = (b.angle.numpy()[near] - a.angle.numpy()[:, None] + np.pi) % TWO_PI - np.pi
    agrees = distance <= reach * np.maximum(scale_a, scale_b)
    agrees &= np.abs(np.log(scale_b / scale_a)) <= np.log(config.scale_ratio)
    agrees &= np.abs(np.rad2deg(turned)) <= config.angle_deg
    cost = np.where(agrees, distance / np.maximum(scale_a, scale_b), np.inf)
    best = cost.argmin(axis=1)
    rows = np.arange(len(a))
    return np.where(np.isfinite(cost[rows, best]), near[rows, best], -1)


def _with_errors(keypoints: Keypoints, rng: np.random.Generator) -> Keypoints:
    """Move, scale and turn keypoints as much as detected ones differ from their partners."""
    noise = torch.from_numpy(rng.normal(size=(len(keypoints), 4)).astype(np.float32))
    moved = POSITION_ERROR * noise[:, :2] * keypoints.scale[:, None]
    return replace(
        keypoints,
        xy=keypoints.xy + moved,
        scale=keypoints.scale * (SCALE_ERROR * noise[:, 2]).exp(),
        angle=(keypoints.angle + ANGLE_ERROR * noise[:, 3]) % TWO_PI,
    )
