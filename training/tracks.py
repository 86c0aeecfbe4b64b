"""Patches of one place in several views of a photo, cut at the detector's own keypoints.

The detector runs on the photo and on each view. Keypoints that agree under the true map form a
track; what they differ by in position, scale and angle is exactly the noise that the descriptor
has to bear later. One pair of files a photo, so that a stopped run goes on where it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from rekd_hloc.config import DetectorConfig
from rekd_hloc.features.descriptor.patches import cut_patches
from rekd_hloc.features.detector.detect import Detector
from rekd_hloc.geometry import angle_difference, warp_angles, warp_points, warp_scales
from rekd_hloc.types import Keypoints
from training.warps import View, WarpConfig, draw_view, plain_view


@dataclass(frozen=True)
class TrackConfig:
    """How tracks are made."""

    warps: WarpConfig = field(default_factory=WarpConfig)
    detector: DetectorConfig = field(
        default_factory=lambda: DetectorConfig(
            max_keypoints=1000, levels_up=0, levels_down=4, nms_window_px=9
        )
    )
    """As in the preset that the descriptor is for, but for weaker suppression: more tracks."""
    num_views: int = 4
    """Changed views of each photo, beside the photo itself."""
    num_upright_views: int = 1
    """How many of them are hardly turned, and give upright patches as well."""
    support: float = 64.0
    """Side of the square that becomes a patch, in pixels of scale 1."""
    finer: tuple[float, ...] = (1.0, 1.0, 1.0, 0.7071, 0.5)
    """Factors on the side, one drawn for each track: levels above the photo's size, without
    the cost of running the detector on them."""
    max_tracks: int = 800
    """Tracks kept of a photo, oriented and upright ones each."""
    min_tracks: int = 100
    """Below it, keypoints without a partner get one by the true map and random jitter."""
    distance_px: float = 2.5
    """Largest disagreement in position, in pixels of the keypoint's level."""
    scale_ratio: float = 1.5
    """Largest disagreement in scale."""
    angle_deg: float = 25.0
    """Largest disagreement in angle, for oriented patches."""

    def __post_init__(self) -> None:
        if not self.num_views >= 1 or not 0 <= self.num_upright_views <= self.num_views:
            raise ValueError(
                "num_views must be at least 1 and num_upright_views at most num_views, got "
                f"{self.num_views}, {self.num_upright_views}"
            )


@dataclass(frozen=True)
class Tracks:
    """Tracks of one photo or scene.

    Attributes:
        patches: of all tracks, one track after the other.
        start: where each track begins in them, and their number.
        place: where a track is, shape (track, 3): x, y and 0 in pixels of the photo, or the scene
            point.
        side: of the square that the first patch shows, in the unit of ``place``.
        is_upright: whether its patches are cut upright.
    """

    patches: NDArray[np.uint8]
    start: NDArray[np.int64]
    place: NDArray[np.float32]
    side: NDArray[np.float32]
    is_upright: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.place)


def make_tracks(
    photo: NDArray[np.uint8], detector: Detector, config: TrackConfig, rng: np.random.Generator
) -> Tracks:
    """Tracks of a photo (RGB), oriented ones first."""
    views = [plain_view(photo)] + [
        draw_view(rng, photo, config.warps, upright=number < config.num_upright_views)
        for number in range(config.num_views)
    ]
    greys = [torch.from_numpy(view.grey).float() / 255 for view in views]
    found = [detector.detect(grey).to("cpu") for grey in greys]
    parts = []
    for oriented in (True, False):
        chosen = [n for n, view in enumerate(views) if oriented or view.is_upright]
        if len(chosen) > 1:
            parts.append(
                _tracks_of_kind(
                    [views[n] for n in chosen],
                    [greys[n] for n in chosen],
                    [found[n] for n in chosen],
                    oriented,
                    config,
                    rng,
                )
            )
    return join_tracks(parts)


def agreeing(
    a: Keypoints, b: Keypoints, b_from_a: Float[Tensor, "3 3"], config: TrackConfig, *, angles: bool
) -> Int64[Tensor, " keypoint_a"]:
    """For each keypoint of a the one of b that agrees with it under the map, or -1.

    Both must be each other's nearest among those that agree.
    """
    if len(a) == 0 or len(b) == 0:
        return torch.full((len(a),), -1)
    carried = carry(a, b_from_a)
    distance = torch.cdist(carried.xy, b.xy).nan_to_num(nan=torch.inf)
    distance = distance / torch.maximum(carried.scale[:, None], b.scale[None])
    ratio = (carried.scale[:, None] / b.scale[None]).log().abs()
    fits = (distance < config.distance_px) & (ratio < float(np.log(config.scale_ratio)))
    if angles:
        turn = angle_difference(carried.angle[:, None], b.angle[None]).abs().rad2deg()
        fits &= turn < config.angle_deg
    distance = distance.masked_fill(~fits, torch.inf)
    value, nearest = distance.min(dim=1)
    mutual = distance.argmin(dim=0)[nearest] == torch.arange(len(a))
    return torch.where(mutual & value.isfinite(), nearest, -1)


def carry(keypoints: Keypoints, b_from_a: Float[Tensor, "3 3"]) -> Keypoints:
    """Keypoints of a where the map puts them in b."""
    xy = keypoints.xy.double()
    return Keypoints(
        xy=warp_points(b_from_a, xy).float(),
        scale=warp_scales(b_from_a, xy, keypoints.scale.double()).float(),
        angle=warp_angles(b_from_a, xy, keypoints.angle.double()).float(),
        score=keypoints.score,
    )


def _tracks_of_kind(
    views: list[View],
    greys: list[Tensor],
    found: list[Keypoints],
    oriented: bool,
    config: TrackConfig,
    rng: np.random.Generator,
) -> Tracks:
    anchor = found[0]
    partners = []
    for view, keypoints in zip(views[1:], found[1:], strict=True):
        b_from_a = torch.from_numpy(view.view_from_photo)
        partners.append(agreeing(anchor, keypoints, b_from_a, config, angles=oriented))
    partner = torch.stack([torch.arange(len(anchor)), *partners], dim=1)
    seen = (partner >= 0).sum(dim=1)
    lacking = config.min_tracks - int((seen > 1).sum())
    if lacking > 0:
        found, partner = _supplement(views, greys, found, partner, lacking, rng)
        seen = (partner >= 0).sum(dim=1)
    rows = torch.nonzero(seen > 1)[:, 0].numpy()
    rows = np.sort(rng.permutation(rows)[: config.max_tracks])
    factor = torch.from_numpy(rng.choice(np.asarray(config.finer, np.float32), len(rows)))
    columns = []
    for number, (grey, keypoints) in enumerate(zip(greys, found, strict=True)):
        index = partner[rows, number]
        present = index >= 0
        points = keypoints[index[present]]
        points = replace(points, scale=points.scale * factor[present])
        cut = cut_patches(grey, points, support=config.support, oriented=oriented, antialias=True)
        columns.append((present.numpy(), as_bytes(cut)))
    patches, start = _by_track(columns, len(rows))
    side = anchor.scale[rows] * factor * config.support
    return Tracks(
        patches=patches,
        start=start,
        place=np.pad(anchor.xy[rows].numpy(), ((0, 0), (0, 1))),
        side=side.numpy(),
        is_upright=np.full(len(rows), not oriented),
    )


def _supplement(
    views: list[View],
    greys: list[Tensor],
    found: list[Keypoints],
    partner: Int64[Tensor, "track view"],
    lacking: int,
    rng: np.random.Generator,
) -> tuple[list[Keypoints], Tensor]:
    """Give the strongest lonely keypoints a partner in the first view, true but for jitter."""
    lonely = torch.nonzero((partner >= 0).sum(dim=1) == 1)[:, 0]
    carried = carry(found[0][lonely], torch.from_numpy(views[1].view_from_photo))
    limit = carried.xy.new_tensor(greys[1].shape[::-1]) - 1
    inside = ((carried.xy > 0) & (carried.xy < limit)).all(dim=1)
    chosen = torch.nonzero(inside)[:lacking, 0]
    lonely, carried = lonely[chosen], carried[chosen]
    noise = torch.from_numpy(rng.normal(size=(len(lonely), 4)).astype(np.float32))
    jittered = Keypoints(
        xy=carried.xy + 0.7 * noise[:, :2] * carried.scale[:, None],
        scale=carried.scale * (0.12 * noise[:, 2]).exp(),
        angle=carried.angle + 0.12 * noise[:, 3],
        score=carried.score,
    )
    partner = partner.clone()
    partner[lonely, 1] = len(found[1]) + torch.arange(len(lonely))
    return [found[0], Keypoints.concatenate([found[1], jittered]), *found[2:]], partner


def as_bytes(patches: Float[Tensor, "patch 1 32 32"]) -> NDArray[np.uint8]:
    """Patches as they are kept on disk."""
    return (patches[:, 0] * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def _by_track(
    columns: list[tuple[NDArray[np.bool_], NDArray[np.uint8]]], num_tracks: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Patches sorted by track, and the bounds of the tracks."""
    track = np.concatenate([np.flatnonzero(present) for present, _ in columns])
    patches = np.concatenate([patch for _, patch in columns])
    order = np.argsort(track, kind="stable")
    counts = np.bincount(track, minlength=num_tracks)
    return patches[order], np.concatenate([[0], np.cumsum(counts)])


def join_tracks(parts: Sequence[Tracks]) -> Tracks:
    """All tracks of several parts of one photo or scene."""
    starts, total = [np.zeros(1, np.int64)], 0
    for part in parts:
        starts.append(part.start[1:] + total)
        total += len(part.patches)
    return Tracks(
        patches=np.concatenate([p.patches for p in parts]),
        start=np.concatenate(starts),
        place=np.concatenate([p.place for p in parts]),
        side=np.concatenate([p.side for p in parts]),
        is_upright=np.concatenate([p.is_upright for p in parts]),
    )
