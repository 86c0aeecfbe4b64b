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

import cv2
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rekd_hloc.config import DetectorConfig
from rekd_hloc.features.detector.detect import Candidates, Detector, is_constant
from rekd_hloc.features.detector.orientation import angle_from_bin, find_peak, read_logits
from rekd_hloc.types import Keypoints

TRUNCATE = 4.0
"""Reach of the Gaussian in standard deviations."""
ORIENTATION_SHIFT_PX = -1.0
"""Added to x and y where the histogram is read."""


class PaperDetector(Detector):
    """Finds keypoints as the paper's published code does."""

    def find_candidates(
        self, image: Float[Tensor, "height width"], *, every: bool = False
    ) -> Candidates:
        """Return local maxima of all levels, with the angles of the image's own size."""
        grey = image.to(self.device)[None, None]
        if is_constant(grey):
            return Candidates.concatenate({}, self.device)
        grey = (grey.double() * 255).round()
        grey = grey / grey.max().clamp(min=1)
        own_size_logits: list[Tensor] = []
        of_levels: dict[int, Keypoints] = {}
        for number, level in iterate_paper_levels(grey, self.config):
            score_map, logits = self.run_network(level)
            if number == 0:
                own_size_logits = logits
            xy, score = self.find_peaks(score_map[0, 0], every=every)
            scale = self.config.factor**number
            of_levels[number] = Keypoints(
                xy * scale, torch.full_like(score, scale), torch.zeros_like(score), score
            )
        candidates = Candidates.concatenate(of_levels, self.device)
        height, width = grey.shape[2:]
        angle = read_paper_angles(own_size_logits, candidates.keypoints.xy, (width, height))
        return replace(candidates, keypoints=replace(candidates.keypoints, angle=angle))


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
    return angle_from_bin(find_peak(histogram, sub_bin=False), histogram.shape[1])


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


def _enlarge(image: Tensor, factor: float) -> Tensor:
    plain = image[0, 0].cpu().numpy()
    # the factors, not the rounded size, set OpenCV's sampling step
    large = cv2.resize(plain, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(large).to(image.device)[None, None]


def _reduce(image: Tensor, factor: float) -> Tensor:
    sigma = 2 * factor / 6.0
    smooth = _blur(_blur(image, 2, sigma), 3, sigma)
    size = [math.ceil(side / factor) for side in image.shape[2:]]
    return F.interpolate(smooth, size, mode="bilinear", align_corners=False)


def _blur(image: Tensor, dim: int, sigma: float) -> Tensor:
    radius = int(TRUNCATE * sigma + 0.5)
    steps = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    taps = torch.exp(-(steps**2) / (2 * sigma**2))
    taps = taps / taps.sum()
    size = image.shape[dim]
    index = torch.arange(-radius, size + radius, device=image.device).remainder(2 * size)
    index = torch.minimum(index, 2 * size - 1 - index)  # the edge pixel is repeated
    padded = image.index_select(dim, index)
    shifted = [tap * padded.narrow(dim, i, size) for i, tap in enumerate(taps)]
    return torch.stack(shifted).sum(dim=0)
