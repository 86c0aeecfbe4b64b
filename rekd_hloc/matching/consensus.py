"""Neighbourhood consensus: matches whose neighbours lie where their own frames say.

A match of two keypoints with positions, scales and angles is a similarity transform of the plane.
Where the image moves smoothly, that transform says nearly where the matches around it lie. A match
is supported by each neighbour that it predicts so, and that has nearly the same rotation and scale
ratio. Support is counted twice: among all matches, then among those that the first count kept, so
that wrong neighbours do not hide right ones.

In the second count a neighbour with enough supporters predicts by an affine map fitted to them,
within a third of the error. So matches on surfaces seen at a slant come in, and near misses go.

Nothing is estimated for the image pair as a whole: each surface of a scene has its own neighbours.
All tolerances are relative to distances and to the keypoints' own scales. So the result does not
change if either image is rotated, scaled or shifted.
"""

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from rekd_hloc.matching.match_frames import Index, MatchFrames
from rekd_hloc.matching.nearest_matches import nearest_in_both
from rekd_hloc.types import Keypoints, Matches

MIN_SUPPORT = 3
"""Supporters without which no match stays."""
MIN_SHARE = 0.3
"""Share of a match's neighbours, in the second count, without which it does not stay."""


@torch.no_grad()
def filter_by_consensus(matches: Matches, a: Keypoints, b: Keypoints) -> Matches:
    """Keep the matches that enough of their neighbours support.

    Args:
        matches: of images a and b, at most one for each keypoint: mutual nearest neighbours.
        a: all keypoints of image a, with true scales and angles.
        b: likewise of image b.

    Returns:
        The matches that stay, in their order. Their scores are the shares of their neighbours that
        support them, in (0, 1].

    Raises:
        ValueError: a match names a keypoint that is not there, a scale is not positive, or a value
            is not finite.
    """
    share, count = support(matches, a, b)
    kept = (count >= MIN_SUPPORT) & (share >= MIN_SHARE)
    score = share[kept].to(matches.score.dtype).to(matches.score.device)
    return Matches(matches.index[kept.to(matches.index.device)], score)


def support(
    matches: Matches, a: Keypoints, b: Keypoints
) -> tuple[Float64[Tensor, " match"], Int64[Tensor, " match"]]:
    """Return which share of its neighbours supports a match, and how many do.

    Raises:
        ValueError: as :func:`filter_by_consensus`.
    """
    frames = MatchFrames.of(matches, a, b)
    every = np.arange(len(frames))
    row, near = find_neighbours(frames, every)
    count = np.bincount(row[frames.agree(row, near)], minlength=len(frames))
    row, near = find_neighbours(frames, every[count >= MIN_SUPPORT])
    agrees = frames.agree(row, near)
    maps, is_mapped = frames.fit_maps(row[agrees], near[agrees])
    agrees = np.where(is_mapped[near], frames.agree_with_maps(row, near, maps), agrees)
    count, num_near = (np.bincount(r, minlength=len(frames)) for r in (row[agrees], row))
    return torch.from_numpy(count / np.maximum(num_near, 1)), torch.from_numpy(count)


def find_neighbours(frames: MatchFrames, pool: Index) -> tuple[Index, Index]:
    """Return pairs of a match and a neighbour out of ``pool``, each pair once.

    Neighbours are the nearest in image a and the nearest in image b.
    """
    return nearest_in_both(frames.xy_a, frames.xy_b, pool)
