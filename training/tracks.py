"""Tracks: patches of one point in several views of an image, cut at the detector's keypoints.

The detector runs on the image and on each view. Keypoints that agree under the true map form a
track. Their differences in position, scale and angle are the noise that the descriptor must bear.
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
from rekd_hloc.features.descriptor.support_hardnet import ONE_SUPPORT
from rekd_hloc.features.detector.detect import Detector
from rekd_hloc.geometry import angle_difference, warp_angles, warp_points, warp_scales
from rekd_hloc.types import Keypoints
from training.warps import View, WarpConfig, draw_view, plain_view


@dataclass(frozen=True)
class TrackConfig:
    """How tracks are made from an image and its views."""

    warps: WarpConfig = field(default_factory=WarpConfig)
    detector: DetectorConfig = field(
        default_factory=lambda: DetectorConfig(
            max_keypoints=1000, levels_up=0, levels_down=4, nms_window_px=9
        )
    )
    """As in the preset that the descriptor is for, but for weaker suppression: more tracks."""
    num_views: int = 4
    """Warped views of each image, besides the image itself."""
    num_upright_views: int = 1
    """Number of those views that are hardly rotated, and give upright patches as well."""
    patch_size_px: float = 64.0
    """Side of the square that becomes a patch, in pixels at scale 1."""
    supports: tuple[float, ...] = ONE_SUPPORT
    """Factors on that side, one for each input channel of the network: ``[1, 2]`` shows it 64 and
    128 px of the image about a keypoint."""
    size_factors: tuple[float, ...] = (1.0, 1.0, 1.0, 0.7071, 0.5)
    """Factors on the side, one drawn for each track: they stand for pyramid levels above the
    image's size, without the cost of running the detector on them."""
    max_tracks: int = 800
    """Largest number of tracks of an image, for oriented and upright patches each."""
    min_tracks: int = 100
    """With fewer tracks, keypoints without a partner get one by the true map and random jitter."""
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
        if not self.supports or not min(self.supports) > 0:
            raise ValueError(f"supports must be positive factors, got {self.supports}")


@dataclass(frozen=True)
class Tracks:
    """Tracks of one image or scene.

    Attributes:
        patches: of all tracks, one track after the other; shape (patch, 32, 32), or (patch,
            support, 32, 32) where there are several supports.
        start: row of each track's first patch, and the number of patches.
        position: of each track, shape (track, 3): x, y and 0 in pixels of the image, or the scene
            point.
        side: of the square that the first patch shows, in the unit of ``position``.
        is_upright: whether its patches are cut upright.
    """

    patches: NDArray[np.uint8]
    start: NDArray[np.int64]
    position: NDArray[np.float32]
    side: NDArray[np.float32]
    is_upright: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.position)


def make_tracks(
    image: NDArray[np.uint8], detector: Detector, config: TrackConfig, rng: np.random.Generator
) -> Tracks:
    """Make the tracks of an image (RGB), oriented ones first."""
    views = [plain_view(image)] + [
        draw_view(rng, image, config.warps, upright=number < config.num_upright_views)
        for number in range(config.num_views)
    ]
    greys = [torch.from_numpy(view.grey).float() / 255 for view in views]
    keypoints = [detector.detect(grey).to("cpu") for grey in greys]
    parts = []
    for oriented in (True, False):
        chosen = [n for n, view in enumerate(views) if oriented or view.is_upright]
        if len(chosen) > 1:
            parts.append(
                _tracks_of_kind(
                    [views[n] for n in chosen],
                    [greys[n] for n in chosen],
                    [keypoints[n] for n in chosen],
                    oriented,
                    config,
                    rng,
                )
            )
    return join_tracks(parts)


def match_by_map(
    a: Keypoints, b: Keypoints, b_from_a: Float[Tensor, "3 3"], config: TrackConfig, *, angles: bool
) -> Int64[Tensor, " keypoint_a"]:
    """For each keypoint of a, find the one of b that agrees with it under the true map, or -1.

    Both must be each other's nearest among those that agree in position, scale and, with
    ``angles``, angle.
    """
    if len(a) == 0 or len(b) == 0:
        return torch.full((len(a),), -1)
    warped = warp_keypoints(a, b_from_a)
    distance = torch.cdist(warped.xy, b.xy).nan_to_num(nan=torch.inf)
    distance = distance / torch.maximum(warped.scale[:, None], b.scale[None])
    ratio = (warped.scale[:, None] / b.scale[None]).log().abs()
    fits = (distance < config.distance_px) & (ratio < float(np.log(config.scale_ratio)))
    if angles:
        error = angle_difference(warped.angle[:, None], b.angle[None]).abs().rad2deg()
        fits &= error < config.angle_deg
    distance = distance.masked_fill(~fits, torch.inf)
    value, nearest = distance.min(dim=1)
    mutual = distance.argmin(dim=0)[nearest] == torch.arange(len(a))
    return torch.where(mutual & value.isfinite(), nearest, -1)


def warp_keypoints(keypoints: Keypoints, b_from_a: Float[Tensor, "3 3"]) -> Keypoints:
    """Return the keypoints of a as the map takes them to b: position, scale and angle."""
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
    keypoints: list[Keypoints],
    oriented: bool,
    config: TrackConfig,
    rng: np.random.Generator,
) -> Tracks:
    anchor = keypoints[0]
    partners = []
    for view, of_view in zip(views[1:], keypoints[1:], strict=True):
        b_from_a = torch.from_numpy(view.view_from_image)
        partners.append(match_by_map(anchor, of_view, b_from_a, config, angles=oriented))
    partner = torch.stack([torch.arange(len(anchor)), *partners], dim=1)
    num_views = (partner >= 0).sum(dim=1)
    lacking = config.min_tracks - int((num_views > 1).sum())
    if lacking > 0:
        keypoints, partner = _supplement(views, greys, keypoints, partner, lacking, rng)
        num_views = (partner >= 0).sum(dim=1)
    rows = torch.nonzero(num_views > 1)[:, 0].numpy()
    rows = np.sort(rng.permutation(rows)[: config.max_tracks])
    factor = torch.from_numpy(rng.choice(np.asarray(config.size_factors, np.float32), len(rows)))
    columns = []
    for number, (grey, of_view) in enumerate(zip(greys, keypoints, strict=True)):
        index = partner[rows, number]
        present = index >= 0
        points = of_view[index[present]]
        points = replace(points, scale=points.scale * factor[present])
        cut = cut_patches(
            grey,
            points,
            patch_size_px=config.patch_size_px,
            oriented=oriented,
            antialias=True,
            supports=config.supports,
        )
        columns.append((present.numpy(), as_bytes(cut)))
    patches, start = _by_track(columns, len(rows))
    side = anchor.scale[rows] * factor * config.patch_size_px
    return Tracks(
        patches=patches,
        start=start,
        position=np.pad(anchor.xy[rows].numpy(), ((0, 0), (0, 1))),
        side=side.numpy(),
        is_upright=np.full(len(rows), not oriented),
    )


def _supplement(
    views: list[View],
    greys: list[Tensor],
    keypoints: list[Keypoints],
    partner: Int64[Tensor, "track view"],
    lacking: int,
    rng: np.random.Generator,
) -> tuple[list[Keypoints], Tensor]:
    """Give the strongest unmatched keypoints a partner in the first view: true but for jitter."""
    unmatched = torch.nonzero((partner >= 0).sum(dim=1) == 1)[:, 0]
    warped = warp_keypoints(keypoints[0][unmatched], torch.from_numpy(views[1].view_from_image))
    limit = warped.xy.new_tensor(greys[1].shape[::-1]) - 1
    inside = ((warped.xy > 0) & (warped.xy < limit)).all(dim=1)
    chosen = torch.nonzero(inside)[:lacking, 0]
    unmatched, warped = unmatched[chosen], warped[chosen]
    noise = torch.from_numpy(rng.normal(size=(len(unmatched), 4)).astype(np.float32))
    jittered = Keypoints(
        xy=warped.xy + 0.7 * noise[:, :2] * warped.scale[:, None],
        scale=warped.scale * (0.12 * noise[:, 2]).exp(),
        angle=warped.angle + 0.12 * noise[:, 3],
        score=warped.score,
    )
    partner = partner.clone()
    partner[unmatched, 1] = len(keypoints[1]) + torch.arange(len(unmatched))
    added = Keypoints.concatenate([keypoints[1], jittered])
    return [keypoints[0], added, *keypoints[2:]], partner


def as_bytes(patches: Float[Tensor, "patch support 32 32"]) -> NDArray[np.uint8]:
    """Return patches in grey levels, as they are stored on disk: one support has no axis."""
    grey = (patches * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    return grey[:, 0] if grey.shape[1] == 1 else grey


def _by_track(
    columns: list[tuple[NDArray[np.bool_], NDArray[np.uint8]]], num_tracks: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Sort patches by track, and give the bounds of the tracks."""
    track = np.concatenate([np.flatnonzero(present) for present, _ in columns])
    patches = np.concatenate([patch for _, patch in columns])
    order = np.argsort(track, kind="stable")
    counts = np.bincount(track, minlength=num_tracks)
    return patches[order], np.concatenate([[0], np.cumsum(counts)])


def join_tracks(parts: Sequence[Tracks]) -> Tracks:
    """Join the tracks of several parts of one image or scene."""
    starts, total = [np.zeros(1, np.int64)], 0
    for part in parts:
        starts.append(part.start[1:] + total)
        total += len(part.patches)
    return Tracks(
        patches=np.concatenate([p.patches for p in parts]),
        start=np.concatenate(starts),
        position=np.concatenate([p.position for p in parts]),
        side=np.concatenate([p.side for p in parts]),
        is_upright=np.concatenate([p.is_upright for p in parts]),
    )
