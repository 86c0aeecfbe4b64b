"""Keypoints of several images of one size at once, in fewer and larger steps for a GPU.

Each step of :class:`~rekd_hloc.features.detector.detect.Detector` is taken for all images, and all
but the search for maxima for all levels too. Keypoints of an image are those that the detector
finds in it alone, to rounding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rekd_hloc.config import DetectorConfig
from rekd_hloc.devices import kept_tensor
from rekd_hloc.features.captured_graphs import CapturedStep
from rekd_hloc.features.detector.detect import Detector
from rekd_hloc.features.detector.keypoints import find_duplicates
from rekd_hloc.features.detector.level_peaks import LevelPeaks, find_level_peaks
from rekd_hloc.features.detector.orientation import read_angles
from rekd_hloc.features.detector.peak_shape import ShapedKeypoints
from rekd_hloc.features.detector.pyramid import Level, iterate_levels, level_budgets
from rekd_hloc.features.detector.surroundings import measure_batch_surroundings
from rekd_hloc.types import Keypoints

RUN_PIXELS = 4_000_000
"""Pixels of a level of several images that the network runs on at once: those of the largest level
of one image of a megapixel, two levels up, so that a batch takes no more memory than it."""

BLOCK = 1 << 17
"""Candidates compared with their neighbours at once, those of a batch; some 200 MiB."""


@dataclass(frozen=True, eq=False)
class ImageKeypoints:
    """Keypoints of several images in one table, image by image, the strongest of each first.

    Attributes:
        keypoints: in pixels of their images.
        image: number of the image that each lies in.
        num_images: of the batch.
    """

    keypoints: Keypoints
    image: Int64[Tensor, " keypoint"]
    num_images: int

    def split(self) -> list[Keypoints]:
        """Return the keypoints of each image on the CPU, in float32; all come by one copy."""
        columns = {f.name: getattr(self.keypoints, f.name) for f in fields(self.keypoints)}
        parts = [
            v.float().reshape(len(v), math.prod(v.shape[1:]))
            for v in (*columns.values(), self.image)
        ]
        joined = torch.cat(parts, dim=1).cpu()
        *table, image = torch.split(joined, [part.shape[1] for part in parts], dim=1)
        values = {
            name: part.reshape(columns[name].shape)
            for name, part in zip(columns, table, strict=True)
        }
        every = replace(self.keypoints, **values)
        ends = torch.searchsorted(image[:, 0].contiguous(), torch.arange(self.num_images + 1.0))
        return [
            every[slice(*pair)] for pair in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
        ]


@dataclass(frozen=True, eq=False)
class _Found:
    """Candidates of all images and levels: their rows, and where each comes from."""

    peaks: LevelPeaks
    image: Int64[Tensor, " candidate"]
    level: Int64[Tensor, " candidate"]
    xy: Float[Tensor, "candidate 2"]
    scale: Float[Tensor, " candidate"]

    def __getitem__(self, index: Int64[Tensor, " selected"]) -> "_Found":
        peaks = replace(
            self.peaks, **{f.name: getattr(self.peaks, f.name)[index] for f in fields(self.peaks)}
        )
        rest = (part[index] for part in (self.image, self.level, self.xy, self.scale))
        return _Found(peaks, *rest)


class BatchDetector:
    """Finds what a detector finds, in several images of one size at once.

    Args:
        detector: whose network and options are used; not that of the paper's protocol.
    """

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._find_in_level = CapturedStep(self._find_packed)

    @torch.inference_mode()
    def detect(self, images: Float[Tensor, "batch height width"]) -> ImageKeypoints:
        """Return the keypoints of images, see :meth:`Detector.detect`.

        Args:
            images: grey, 0..1, on the device of the network.
        """
        config, count = self._detector.config, len(images)
        levels = list(iterate_levels(images[:, None], config))
        if not levels:
            none = torch.zeros(0, dtype=torch.int64, device=images.device)
            return ImageKeypoints(self._keypoints(None, images), none, count)
        found = _join([self._find(level) for level in levels], levels, images)
        if config.duplicate_radius_px > 0:
            found = found[_without_duplicates(found, len(levels), config)]
        chosen = select_in_images(
            found.image, found.level, found.peaks.score, config, count, len(levels)
        )
        found = found[chosen]
        return ImageKeypoints(self._keypoints(found, images), found.image, count)

    def _find(self, level: Level) -> Float[Tensor, "batch row column"]:
        """Return the packed maxima of a level, from as many images at once as memory is for."""
        height, width = level.pixels.size
        at_once = max(RUN_PIXELS // (height * width), 1)
        runs = [self._find_in_level(part) for part in torch.split(level.image, at_once)]
        return torch.cat(runs) if len(runs) > 1 else runs[0]

    def _find_packed(
        self, images: Float[Tensor, "batch 1 height width"]
    ) -> Float[Tensor, "batch row column"]:
        with self._detector.precision():
            return find_level_peaks(self._detector.network, images, self._detector.config).pack()

    def _keypoints(
        self, found: _Found | None, images: Float[Tensor, "batch height width"]
    ) -> Keypoints:
        """Return the keypoints of what was selected, with shapes if the detector measures them."""
        if found is None:
            return Keypoints.empty(images.device)
        peaks = found.peaks
        keypoints = Keypoints(found.xy, found.scale, read_angles(peaks.logits), peaks.score)
        if self._detector.with_shapes:
            shaped = ShapedKeypoints.measure(keypoints, peaks.around, peaks.logits)
            surroundings = measure_batch_surroundings(
                images, found.image, found.xy, found.scale,
                with_directions=self._detector.with_directions,
            )  # fmt: skip
            keypoints = replace(shaped, surroundings=surroundings)
        return replace(keypoints, xy=keypoints.xy.float())


def _join(
    tables: Sequence[Float[Tensor, "batch _ column"]],
    levels: Sequence[Level],
    images: Float[Tensor, "batch height width"],
) -> _Found:
    """Return the maxima of all levels, image by image, in pixels of the images."""
    peaks = LevelPeaks.unpack(torch.cat(list(tables), dim=1))
    device, num_rows = images.device, peaks.score.shape[1]
    pixels = images.flatten(1)
    varies = pixels.amin(dim=1) < pixels.amax(dim=1)
    there = torch.nonzero((peaks.is_there & varies[:, None]).flatten())[:, 0]
    level = _level_of_rows(tuple(t.shape[1] for t in tables), device)[there % num_rows]
    flat = {f.name: getattr(peaks, f.name).flatten(0, 1)[there] for f in fields(peaks)}
    chosen = replace(peaks, **flat)
    ratio = kept_tensor(tuple(lev.ratio for lev in levels), torch.float64, device)
    scale = kept_tensor(tuple(lev.scale for lev in levels), torch.float32, device)
    xy = (chosen.xy.double() + 0.5) * ratio[level] - 0.5
    return _Found(chosen, there // num_rows, level, xy, scale[level])


@lru_cache(maxsize=64)
def _level_of_rows(counts: tuple[int, ...], device: torch.device) -> Int64[Tensor, " row"]:
    """Return the number of the level that each row of joined tables comes from."""
    with torch.inference_mode(mode=False):
        of_rows = torch.repeat_interleave(torch.tensor(counts))
        return of_rows.to(device)


def _without_duplicates(
    found: _Found, num_levels: int, config: DetectorConfig
) -> Int64[Tensor, " kept"]:
    """Return the numbers of candidates that are no duplicates."""
    # a level without keypoints between those of two images keeps these apart
    level = found.image * (num_levels + 1) + found.level
    is_duplicate = find_duplicates(
        found.xy, level, found.scale, found.peaks.score,
        radius_px=config.duplicate_radius_px, block=BLOCK,
    )  # fmt: skip
    return torch.nonzero(~is_duplicate)[:, 0]


def select_in_images(
    image: Int64[Tensor, " keypoint"],
    level: Int64[Tensor, " keypoint"],
    score: Float[Tensor, " keypoint"],
    config: DetectorConfig,
    num_images: int,
    num_levels: int,
) -> Int64[Tensor, " selected"]:
    """Select in each image what ``select_within_budgets`` selects; the answer goes image by image.

    Args:
        image: number of each keypoint's image.
        level: number of its level, counted from the largest one.
        score: not negative.
        config: budgets.
        num_images: of the batch.
        num_levels: that the images have.
    """
    device = score.device
    bits = score.view(torch.int32).long()
    order = torch.argsort((image << 32) - bits, stable=True)
    group = (image * num_levels + level)[order]
    ones = torch.ones_like(group)
    count = torch.zeros(num_images * num_levels, dtype=torch.int64, device=device)
    count = count.scatter_add(0, group, ones)
    by_group = torch.argsort(group, stable=True)
    first = (count.cumsum(0) - count)[group[by_group]]
    rank = torch.zeros_like(group).scatter(0, by_group, ones.cumsum(0) - 1 - first)
    is_selected = rank < _allowed(count.view(num_images, num_levels), config).flatten()[group]

    image = image[order]
    of_image = count.view(num_images, num_levels).sum(dim=1)
    start = of_image.cumsum(0) - of_image
    selected_before = torch.nn.functional.pad(is_selected.long().cumsum(0), (1, 0))
    num_selected = selected_before[start + of_image] - selected_before[start]
    place = selected_before[:-1] - selected_before[start][image]
    place_of_left = ones.cumsum(0) - 1 - start[image] - place
    lacking = (config.max_keypoints - num_selected).clamp(min=0) * int(config.fill_budget)
    is_kept = torch.where(is_selected, place < config.max_keypoints, place_of_left < lacking[image])
    kept = torch.nonzero(is_kept)[:, 0]
    # of equal scores, those within their level's budget come first
    rows = order[kept]
    key = ((image[kept] << 32) - bits[rows]) * 2 + (~is_selected[kept]).long()
    return rows[torch.argsort(key, stable=True)]


def _allowed(
    count: Int64[Tensor, "image level"], config: DetectorConfig
) -> Int64[Tensor, "image level"]:
    """Return how many keypoints a level may give: its budget, and what finer ones leave."""
    budgets = tuple(level_budgets(config).values())[: count.shape[1]]
    budget = kept_tensor(budgets, torch.int64, count.device)
    # carried = max(carried before + budget - count, 0) at each level, in closed form
    surplus = (budget - count).cumsum(dim=1)
    carried = surplus - surplus.cummin(dim=1).values.clamp(max=0)
    return budget + torch.nn.functional.pad(carried[:, :-1], (1, 0))
