"""Affine maps of the plane about matches, from the matches around them.

Positions of a dozen neighbours say more of the local map between two images than one keypoint's
scale and angle do: they know its stretch and shear. Where neighbours do not agree on a map, as at
an edge in depth, the match's own similarity transform stands.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from rekd_hloc.matching.consensus import find_neighbours
from rekd_hloc.matching.match_frames import MatchFrames
from rekd_hloc.refinement.align_patches import similarity_of
from rekd_hloc.types import Keypoints, Matches


@torch.no_grad()
def local_affine(a: Keypoints, b: Keypoints) -> Float[Tensor, "match 2 2"]:
    """Return maps of the plane from image a to image b.

    A match's map is fitted to the neighbours that its frames predict, as consensus does it
    (:mod:`rekd_hloc.matching.consensus`).

    Args:
        a: keypoints in a; row m matches row m of ``b``.
        b: keypoints in b.

    Raises:
        ValueError: a scale is not positive, or a value is not finite.
    """
    own = similarity_of(a, b)
    every = torch.arange(len(a))
    matches = Matches(torch.stack([every, every], dim=1), torch.ones(len(a)))
    frames = MatchFrames.of(matches, a, b)
    row, near = find_neighbours(frames, every.numpy())
    agrees = frames.agree(row, near)
    changes, is_fitted = frames.fit_maps(row[agrees], near[agrees])
    change = torch.from_numpy(changes).to(own)
    is_good = torch.from_numpy(is_fitted).to(own.device) & (torch.linalg.det(change) > 0)
    return torch.where(is_good[:, None, None], change @ own, own)
