"""Keypoints that lie at one place, joined from photo to photo, whether a descriptor matches or not.

Something says where a keypoint of one photo lies in another: the planes of a reconstruction, or a
map between two photos. Where the other photo has a keypoint that agrees, both are of one track.
Where it has none, one may be put there with the errors that keypoints have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from scipy.spatial import cKDTree

from rekd_hloc.geometry import TWO_PI
from rekd_hloc.types import Keypoints
from training.scenes.cut_tracks import Observations, View
from training.scenes.frame_errors import FrameErrors
from training.tracks import TrackConfig

Pair = tuple[int, int]
Rows = Int64[np.ndarray, " row"]


class Carrier(Protocol):
    """Photos, this project's keypoints in them, and where these lie in the other photos."""

    @property
    def names(self) -> Sequence[str]:
        """Return the names of the photos."""
        ...

    @property
    def keypoints(self) -> Sequence[Keypoints]:
        """Return the keypoints of each view."""
        ...

    def others(self, view: int) -> list[int]:
        """Return the views that keypoints of a view can be carried to."""
        ...

    def carry(self, of: int, to: int) -> tuple[Keypoints, Bool[np.ndarray, " keypoint"]]:
        """Return the keypoints of a view as they lie in another, and whether each is seen."""
        ...

    def places(self, view: int) -> Float64[np.ndarray, "keypoint 3"]:
        """Return where the keypoints of a view lie in the frame of its tracks."""
        ...

    def views(self, keypoints: Sequence[Keypoints]) -> list[View]:
        """Return the photos with these keypoints, for patches to be cut."""
        ...


@dataclass(frozen=True, eq=False)
class JoinedKeypoints:
    """Tracks of keypoints.

    Attributes:
        seen: which keypoint shows which track; those placed come behind a view's own.
        place: of each track, in the frame of the view that it starts in.
        first: number of that view.
        placed: keypoints that were placed in each view.
    """

    seen: Observations
    place: Float64[np.ndarray, "track 3"]
    first: Int64[np.ndarray, " track"]
    placed: list[list[Keypoints]]

    def __len__(self) -> int:
        """Return number of tracks."""
        return len(self.place)

    def choose(self, chosen: Int64[np.ndarray, " chosen"]) -> "JoinedKeypoints":
        """Return some of the tracks, given in rising order."""
        row = np.full(len(self), -1)
        row[chosen] = np.arange(len(chosen))
        kept = self.seen[row[self.seen.point] >= 0]
        seen = replace(kept, point=row[kept.point])
        return JoinedKeypoints(seen, self.place[chosen], self.first[chosen], self.placed)

    def all_keypoints(self, carrier: Carrier) -> list[Keypoints]:
        """Return the keypoints of each view, those placed behind its own."""
        return [
            Keypoints.concatenate([own, *added])
            for own, added in zip(carrier.keypoints, self.placed, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Found:
    """Where the keypoints of one view lie in another.

    Attributes:
        carried: as they are expected there.
        is_seen: whether they are seen.
        partner: the keypoint that lies there, or -1.
    """

    carried: Keypoints
    is_seen: Bool[np.ndarray, " keypoint"]
    partner: Int64[np.ndarray, " keypoint"]


def join_keypoints(
    carrier: Carrier, config: TrackConfig, rng: np.random.Generator, placed_share: float
) -> JoinedKeypoints:
    """Make each keypoint that is in no track yet the first of one, photo after photo.

    Args:
        carrier: says where keypoints lie.
        config: how far keypoints of a track may disagree.
        rng: draws where keypoints are placed.
        placed_share: share of the views of a track without a keypoint that get a placed one.
    """
    return join_found(carrier, find_all(carrier, config), rng, placed_share)


def join_found(
    carrier: Carrier, found: Mapping[Pair, Found], rng: np.random.Generator, placed_share: float
) -> JoinedKeypoints:
    """Join keypoints as :func:`join_keypoints` does, from what :func:`find_all` has found."""
    joiner = _Joiner(carrier, measure_errors(carrier, found), rng, placed_share)
    for first in range(len(carrier.keypoints)):
        there = {to: pair for (of, to), pair in found.items() if of == first}
        if there:
            joiner.start_in(first, there)
    return joiner.finish()


class _Joiner:
    """Tracks so far, and which keypoints are in one."""

    def __init__(
        self, carrier: Carrier, errors: FrameErrors, rng: np.random.Generator, placed_share: float
    ) -> None:
        self.carrier, self.errors, self.rng = carrier, errors, rng
        self.placed_share = placed_share
        self.taken = [np.zeros(len(points), dtype=bool) for points in carrier.keypoints]
        self.placed: list[list[Keypoints]] = [[] for _ in carrier.keypoints]
        self.lengths = [len(points) for points in carrier.keypoints]
        self.rows = [np.zeros((0, 3), np.int64)]
        self.places = [np.zeros((0, 3))]
        self.firsts = [np.zeros(0, np.int64)]
        self.num_tracks = 0

    def start_in(self, first: int, there: Mapping[int, Found]) -> None:
        """Start tracks at the free keypoints of a view that have a free partner in another."""
        # the entry behind the last answers for -1
        is_free = {view: np.append(~self.taken[view], False) for view in there}
        is_partner = {view: is_free[view][pair.partner] for view, pair in there.items()}
        starts = ~self.taken[first] & np.any(list(is_partner.values()), axis=0)
        number = np.cumsum(starts) - 1 + self.num_tracks
        self._show(number[starts], first, np.flatnonzero(starts))
        for view, pair in there.items():
            own = starts & is_partner[view]
            self._show(number[own], view, pair.partner[own])
            self.taken[view][pair.partner[own]] = True
            lacking = starts & pair.is_seen & (pair.partner < 0)
            lacking &= self.rng.random(len(lacking)) < self.placed_share
            self._place(number[lacking], view, pair.carried[torch.from_numpy(lacking)])
        self.taken[first] |= starts
        self.places.append(self.carrier.places(first)[starts])
        self.firsts.append(np.full(int(starts.sum()), first))
        self.num_tracks += int(starts.sum())

    def finish(self) -> JoinedKeypoints:
        """Return the tracks, their keypoints in the order of the views."""
        table = np.concatenate(self.rows)
        table = table[np.lexsort((table[:, 1], table[:, 0]))]
        place, first = np.concatenate(self.places), np.concatenate(self.firsts)
        return JoinedKeypoints(Observations(*table.T), place, first, self.placed)

    def _show(self, track: Rows, view: int, keypoint: Rows) -> None:
        self.rows.append(np.column_stack([track, np.full(len(track), view), keypoint]))

    def _place(self, track: Rows, view: int, expected: Keypoints) -> None:
        """Put keypoints behind a view's own, where they are expected but for their errors."""
        self._show(track, view, self.lengths[view] + np.arange(len(expected)))
        added = self.errors.draw(self.rng, len(expected)).apply(expected)
        self.placed[view].append(added)
        self.lengths[view] += len(added)


def find_all(carrier: Carrier, config: TrackConfig) -> dict[Pair, Found]:
    """Find the keypoints of each view in all later ones that they can be carried to."""
    return {
        (of, to): find_partners(carrier, of, to, config)
        for of in range(len(carrier.keypoints))
        for to in carrier.others(of)
        if to > of
    }


def measure_errors(carrier: Carrier, found: Mapping[Pair, Found]) -> FrameErrors:
    """Measure by how much keypoints differ from where their partners put them."""
    parts = []
    for (_, to), pair in found.items():
        joined = pair.partner >= 0
        own = carrier.keypoints[to][torch.from_numpy(pair.partner[joined])]
        parts.append(FrameErrors.measure(pair.carried[torch.from_numpy(joined)], own))
    return FrameErrors.join(parts)


def find_partners(carrier: Carrier, of: int, to: int, config: TrackConfig) -> Found:
    """Find the keypoints of a view in another; partners are the nearest of each other."""
    carried, is_seen = carrier.carry(of, to)
    own = carrier.keypoints[to]
    partner = np.full(len(carried), -1)
    if len(own) and is_seen.any():
        forth = _nearest(carried, own, config)
        back_carried, is_seen_back = carrier.carry(to, of)
        back = _nearest(back_carried, carrier.keypoints[of], config)
        back[~is_seen_back] = -1
        rows = np.arange(len(carried))
        agrees = is_seen & (forth >= 0) & (back[forth] == rows)
        partner[agrees] = forth[agrees]
    return Found(carried, is_seen, partner)


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
