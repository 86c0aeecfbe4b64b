"""Patches of scene points, cut at the keypoints that show them in the photos of a scene."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from rekd_hloc.features.descriptor.patches import PATCH_PX, cut_patches
from rekd_hloc.images import read_image
from rekd_hloc.types import Keypoints
from training.tracks import TrackConfig, Tracks, as_bytes, join_tracks


@dataclass(frozen=True, eq=False)
class View:
    """A registered image and its pose."""

    path: Path
    size: tuple[int, int]
    keypoints: Keypoints
    rotation: Float64[np.ndarray, "3 3"]
    centre: Float64[np.ndarray, "3"]
    focal_px: float


@dataclass(frozen=True, eq=False)
class Observations:
    """Keypoints of scene points, sorted by point; rows are observations."""

    point: Int64[np.ndarray, " row"]
    view: Int64[np.ndarray, " row"]
    keypoint: Int64[np.ndarray, " row"]

    def __getitem__(self, chosen: NDArray[Any]) -> "Observations":
        return Observations(self.point[chosen], self.view[chosen], self.keypoint[chosen])

    def in_several_views(self) -> "Observations":
        """Return the observations of those points that two or more views show."""
        return self[np.bincount(self.point)[self.point] > 1] if len(self.point) else self


def cut_tracks(
    views: Sequence[View],
    seen: Observations,
    xyz: Float64[np.ndarray, "point 3"],
    config: TrackConfig,
    rng: np.random.Generator,
) -> list[Tracks]:
    """Cut the patches of scene points, grouped by the first view that shows them.

    Args:
        views: the photos and their poses.
        seen: which keypoint shows which point; each point in two views at least.
        xyz: the points.
        config: how patches are cut.
        rng: draws the factors on patch sizes.

    Returns:
        For each such view its tracks, those of oriented patches first.

    Raises:
        ValueError: a photo is not of the size that its keypoints were found in.
    """
    factor = rng.choice(np.asarray(config.size_factors, np.float32), len(xyz))
    upright = _of_similar_roll(seen, views, config.warps.upright_angle_deg)
    parts: dict[int, list[Tracks]] = {}
    for rows, oriented in ((seen, True), (upright, False)):
        patches = _cut_observations(rows, views, factor, config, oriented=oriented)
        for number, tracks in _by_first_view(
            rows, patches, xyz, factor, views, config.patch_size_px
        ):
            tracks = replace(tracks, is_upright=np.full(len(tracks), not oriented))
            parts.setdefault(number, []).append(tracks)
    return [join_tracks(parts[number]) for number in sorted(parts)]


def _of_similar_roll(seen: Observations, views: Sequence[View], limit_deg: float) -> Observations:
    """The observations in images of nearly the same roll as the first that shows the point."""
    down = np.mean([view.rotation[1] for view in views], axis=0)
    shown = np.array([view.rotation @ down for view in views])
    roll = np.arctan2(shown[:, 0], shown[:, 1])
    _, first = np.unique(seen.point, return_index=True)
    difference = roll[seen.view] - roll[seen.view[first]][seen.point]
    difference = np.abs((difference + np.pi) % (2 * np.pi) - np.pi)
    return seen[np.rad2deg(difference) <= limit_deg].in_several_views()


def _cut_observations(
    rows: Observations,
    views: Sequence[View],
    factor: NDArray[np.float32],
    config: TrackConfig,
    *,
    oriented: bool,
) -> UInt8[np.ndarray, "row *support 32 32"]:
    """Cut the patch of each observation."""
    blank = torch.zeros(len(rows.point), len(config.supports), PATCH_PX, PATCH_PX)
    patches = as_bytes(blank)
    for number in np.unique(rows.view):
        chosen = rows.view == number
        grey = _read_grey(views[number])
        points = views[number].keypoints[torch.from_numpy(rows.keypoint[chosen])]
        points = replace(points, scale=points.scale * torch.from_numpy(factor[rows.point[chosen]]))
        patches[chosen] = as_bytes(
            cut_patches(
                grey,
                points,
                patch_size_px=config.patch_size_px,
                oriented=oriented,
                antialias=True,
                supports=config.supports,
            )
        )
    return patches


def _read_grey(view: View) -> Tensor:
    grey = read_image(view.path)
    size = grey.shape[1], grey.shape[0]
    if size != view.size:
        raise ValueError(
            f"{view.path} is {size[0]}x{size[1]}, its features were made of "
            f"{view.size[0]}x{view.size[1]}; scenes.images must be the folder that was "
            "reconstructed, without EXIF rotation"
        )
    return grey


def _by_first_view(
    rows: Observations,
    patches: UInt8[np.ndarray, "row *support 32 32"],
    xyz: Float64[np.ndarray, "point 3"],
    factor: NDArray[np.float32],
    views: Sequence[View],
    patch_size_px: float,
) -> Iterator[tuple[int, Tracks]]:
    """Group the tracks by the number of the first view that shows them, none of them upright."""
    points, first, counts = np.unique(rows.point, return_index=True, return_counts=True)
    anchor = rows.view[first]
    for number in np.unique(anchor):
        chosen = anchor == number
        view = views[number]
        scale = view.keypoints.scale.numpy()[rows.keypoint[first[chosen]]] * factor[points[chosen]]
        depth = (xyz[points[chosen]] - view.centre) @ view.rotation[2]
        yield (
            int(number),
            Tracks(
                patches=patches[np.isin(rows.point, points[chosen])],
                start=np.concatenate([[0], np.cumsum(counts[chosen])]),
                position=xyz[points[chosen]].astype(np.float32),
                side=(patch_size_px * scale * depth / view.focal_px).astype(np.float32),
                is_upright=np.zeros(int(chosen.sum()), dtype=bool),
            ),
        )
