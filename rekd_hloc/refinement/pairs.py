"""Matches of two images with positions that the images themselves refine."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from rekd_hloc.images import read_image
from rekd_hloc.refinement.align_patches import align_patches
from rekd_hloc.refinement.local_affine import local_affine
from rekd_hloc.refinement.pyramid import ImagePyramid
from rekd_hloc.types import Keypoints, Matches

Image = str | Path | NDArray[np.floating] | Tensor | ImagePyramid
"""A file, grey values in 0..1 of shape (height, width), or their pyramid."""


@dataclass(frozen=True, eq=False)
class RefinedMatches:
    """Hold matches with positions of their own; a keypoint keeps what its match does not move.

    Attributes:
        matches: as they were given.
        xy_a: positions in image a, in pixels; those of the keypoints.
        xy_b: positions in image b, in pixels; refined where ``is_refined``.
        covariance: of ``xy_b``, in square pixels; not a number where not refined.
        zncc: correlation of both patches after alignment, in [-1, 1].
        is_refined: whether the alignment was accepted.
    """

    matches: Matches
    xy_a: Float[Tensor, "match 2"]
    xy_b: Float[Tensor, "match 2"]
    covariance: Float[Tensor, "match 2 2"]
    zncc: Float[Tensor, " match"]
    is_refined: Bool[Tensor, " match"]

    def __len__(self) -> int:
        return len(self.matches)


def refine(
    image_a: Image, image_b: Image, a: Keypoints, b: Keypoints, matches: Matches
) -> RefinedMatches:
    """Refine the position in image b of each match, to hundredths of a pixel where it succeeds.

    Args:
        image_a: the image of ``a``, a file, grey values, or a pyramid on the keypoints' device,
            which many pairs can share.
        image_b: likewise.
        a: keypoints with true scales and angles, in pixels of the image.
        b: likewise.
        matches: better those that agree on a geometry: a wrong match costs time.

    Raises:
        ValueError: an image is not of shape (height, width).
        FileNotFoundError, ImageReadError: an image cannot be read.
    """
    pyramids = [_pyramid(image, a.xy.device) for image in (image_a, image_b)]
    index_a, index_b = matches.index.unbind(dim=1)
    frames_a, frames_b = a[index_a], b[index_b]
    start = local_affine(frames_a, frames_b)
    found = align_patches(pyramids[0], pyramids[1], frames_a, frames_b, start)
    return RefinedMatches(
        matches=matches,
        xy_a=frames_a.xy,
        xy_b=frames_b.xy + found.shift,
        covariance=found.covariance,
        zncc=found.zncc,
        is_refined=found.is_refined,
    )


def _pyramid(image: Image, device: torch.device) -> ImagePyramid:
    if isinstance(image, ImagePyramid):
        return image
    if isinstance(image, str | Path):
        return ImagePyramid.of(read_image(Path(image)).to(device))
    grey = torch.as_tensor(image).float()
    if grey.ndim != 2:
        raise ValueError(f"image must have shape (height, width), got {tuple(grey.shape)}")
    return ImagePyramid.of(grey.to(device))
