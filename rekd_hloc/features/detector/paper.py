"""The protocol of the paper's published code, with its quirks, for the preset ``rekd-paper``.

* Greys are rounded to 8 bits and divided by the largest.
* Enlarged levels come from the image itself by OpenCV's bilinear rule. Reduced levels come each
  from the one above: a Gaussian of a third of the factor, the image mirrored at its edges, then a
  bilinear reading, sizes rounded up; scikit-image's ``pyramid_gaussian`` is the model.
* A keypoint's position is its level's pixel times the level's scale, though the resampling aligns
  pixel areas: up to a pixel off, as in the published results.
* All angles are read from the histogram of the image's own size, at whole pixels, one pixel up and
  to the left of the keypoint, and are those of the best bin.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import cv2
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rekd_hloc.config import DetectorConfig
from rekd_hloc.features.detector import tiles
from rekd_hloc.features.detector.detect import Candidates, Detector
from rekd_hloc.features.detector.mask import PatchMask
from rekd_hloc.features.detector.network import TiledNetwork
from rekd_hloc.features.detector.normalise import is_constant
from rekd_hloc.features.detector.orientation import read_angles, read_logits
from rekd_hloc.features.detector.paper_tiles import EnlargedGreys, RoundedGreys, reduce_in_strips
from rekd_hloc.features.detector.pyramid import Level
from rekd_hloc.features.detector.tiles import Pixels, Region, StoredPixels
from rekd_hloc.types import Keypoints

TRUNCATE = 4.0
"""Reach of the Gaussian in standard deviations."""
ORIENTATION_SHIFT_PX = -1.0
"""Added to x and y where the histogram is read."""


class PaperLevel(Level):
    """A level whose pixels are mapped to the image by its scale alone."""

    def to_image(self, xy: Float[Tensor, "keypoint 2"]) -> Float[Tensor, "keypoint 2"]:
        """Map pixels of the level to pixels of the image: the centres of the first coincide."""
        return xy * self.scale


class PaperDetector(Detector):
    """Finds keypoints as the paper's published code does."""

    def find_candidates(
        self, image: Float[Tensor, "height width"], mask: PatchMask | None = None
    ) -> Candidates:
        """Return the best maxima of each level, with the angles of the image's own size."""
        grey = image.to(self.exact_device)[None, None]
        if is_constant(grey):
            return Candidates.concatenate({}, self.exact_device)
        of_levels: dict[int, Keypoints] = {}
        own_size_logits: list[Tensor] = []
        for level in paper_levels(grey, self.config):
            tiled = self.tiled_network(level)
            if tiled is not None:
                keypoints = self.find_in_tiles(tiled, level, mask, angles_follow=True)
            else:
                score_map, logits = self.run_network(level)
                own_size_logits = logits if level.number == 0 else own_size_logits
                keypoints = self.find_in_maps(level, score_map, logits, mask, angles_follow=True)
            of_levels[level.number] = keypoints
        candidates = Candidates.concatenate(of_levels, self.exact_device)
        xy, (height, width) = candidates.keypoints.xy, grey.shape[2:]
        if own_size_logits:
            angle = read_paper_angles(own_size_logits, xy, (width, height))
        else:
            angle = self._read_angles_in_tiles(RoundedGreys(grey), xy)
        candidates = replace(candidates, keypoints=replace(candidates.keypoints, angle=angle))
        if mask is None:
            return candidates
        if mask.oriented:
            candidates = candidates[mask(candidates.keypoints)]
        return self._strongest(candidates)

    def _read_angles_in_tiles(
        self, pixels: RoundedGreys, xy: Float[Tensor, "keypoint 2"]
    ) -> Float[Tensor, " keypoint"]:
        """Return what :func:`read_paper_angles` does, from one tile after the other."""
        assert isinstance(self.network, TiledNetwork)
        limit = xy.new_tensor([pixels.size[1], pixels.size[0]]) - 1
        point = (xy + ORIENTATION_SHIFT_PX).round().clamp(min=0).minimum(limit)
        angle = torch.zeros(len(xy), device=xy.device)
        for tile in tiles.iterate_tiles(pixels.size):
            chosen = torch.nonzero(tile.contains(point))[:, 0]
            if len(chosen) > 0:
                maps = self.run_on_region(self.network, pixels, tile)
                angle[chosen] = read_angles(maps.read_logits(point[chosen]), sub_bin=False)
        return angle


def read_paper_angles(
    logits: list[Float[Tensor, "1 bin _ _"]],
    xy: Float[Tensor, "keypoint 2"],
    image_size: tuple[int, int],
) -> Float[Tensor, " keypoint"]:
    """Return angles of the best bins at the shifted and rounded points; halves are rounded to even.

    Args:
        logits: of each inner level of the image's own size.
        xy: in pixels of the image.
        image_size: (width, height).
    """
    histogram = read_logits(logits, (xy + ORIENTATION_SHIFT_PX).round(), image_size)
    return read_angles(histogram, sub_bin=False)


def paper_levels(
    grey: Float[Tensor, "1 1 height width"], config: DetectorConfig
) -> Iterator[PaperLevel]:
    """Return the levels of an image of greys in 0..1, from the largest to the smallest."""
    factor = config.factor**config.levels_up
    largest = round(grey.shape[2] * factor), round(grey.shape[3] * factor)
    if largest[0] * largest[1] > tiles.WHOLE_PIXELS:
        levels = _iterate_large_levels(grey, config)
    else:
        rounded = (grey.double() * 255).round()
        exact = rounded / rounded.max().clamp(min=1)
        small = iterate_paper_levels(exact, config)
        levels = ((number, StoredPixels(image)) for number, image in small)
    for number, pixels in levels:
        scale = config.factor**number
        in_tiles = tiles.needs_tiles(pixels.size, largest)
        yield PaperLevel(pixels, number, scale, (scale, scale), in_tiles)


def iterate_paper_levels(
    image: Float[Tensor, "1 1 height width"], config: DetectorConfig
) -> Iterator[tuple[int, Float[Tensor, "1 1 _ _"]]]:
    """Return number and image of each level, from the largest to the smallest, however small.

    Resampling is in float64 throughout, as there; the levels are float32.
    """
    exact = image.double()
    for number in range(-config.levels_up, 0):
        yield number, _enlarge(exact, config.factor**-number).float()
    yield 0, exact.float()
    current = exact
    for number in range(1, config.levels_down + 1):
        current = _reduce(current, config.factor)
        yield number, current.float()


def _iterate_large_levels(
    grey: Float[Tensor, "1 1 height width"], config: DetectorConfig
) -> Iterator[tuple[int, Pixels]]:
    """Return the same levels of an image whose enlarged levels would take too much memory."""
    image = RoundedGreys(grey)
    for number in range(-config.levels_up, 0):
        yield number, EnlargedGreys(image, config.factor**-number)
    yield 0, image
    read, size = image.read_exact, image.size
    for number in range(1, config.levels_down + 1):
        radius = _blur_radius(_reduction_sigma(config.factor))
        reduced = reduce_in_strips(
            read, size, config.factor, partial(_smooth, factor=config.factor), radius
        )
        yield number, StoredPixels(reduced.float())
        size = reduced.shape[2], reduced.shape[3]
        read = partial(_read_stored, reduced)


def _read_stored(image: Tensor, region: Region) -> Tensor:
    return region.cut(image, Region(0, image.shape[2], 0, image.shape[3]))


def _enlarge(image: Tensor, factor: float) -> Tensor:
    plain = image[0, 0].cpu().numpy()
    # the factors, not the rounded size, set OpenCV's sampling step
    large = cv2.resize(plain, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(large).to(image.device)[None, None]


def _reduce(image: Tensor, factor: float) -> Tensor:
    size = [math.ceil(side / factor) for side in image.shape[2:]]
    return F.interpolate(_smooth(image, factor), size, mode="bilinear", align_corners=False)


def _smooth(image: Tensor, factor: float) -> Tensor:
    sigma = _reduction_sigma(factor)
    return _blur(_blur(image, 2, sigma), 3, sigma)


def _reduction_sigma(factor: float) -> float:
    return 2 * factor / 6.0


def _blur_radius(sigma: float) -> int:
    return int(TRUNCATE * sigma + 0.5)


def _blur(image: Tensor, dim: int, sigma: float) -> Tensor:
    radius = _blur_radius(sigma)
    steps = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    taps = torch.exp(-(steps**2) / (2 * sigma**2))
    taps = taps / taps.sum()
    size = image.shape[dim]
    index = torch.arange(-radius, size + radius, device=image.device).remainder(2 * size)
    index = torch.minimum(index, 2 * size - 1 - index)  # the edge pixel is repeated
    padded = image.index_select(dim, index)
    shifted = [tap * padded.narrow(dim, i, size) for i, tap in enumerate(taps)]
    return torch.stack(shifted).sum(dim=0)
