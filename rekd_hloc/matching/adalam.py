"""AdaLAM: matches that agree with the affine maps of their neighbourhoods.

Cavalli et al., "AdaLAM: Revisiting handcrafted outlier detection", 2020, in kornia's
implementation. It finds the nearest neighbours itself, and needs the positions, scales and angles
of the keypoints.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rekd_hloc.types import Features, Matches

MIN_KEYPOINTS = 2
"""AdaLAM compares a nearest neighbour with the second nearest."""


@torch.no_grad()
def match_adalam(a: Features, b: Features) -> Matches:
    """Match two images by AdaLAM with kornia's default options.

    AdaLAM keeps one match for each keypoint of ``a``; of those that share a keypoint of ``b``, the
    one with the most similar descriptors stays.

    Args:
        a: features with true scales and angles; where a file lacks them and they were filled in,
            the result means nothing.
        b: likewise, on the same device.
    """
    from kornia.feature.adalam.adalam import AdalamFilter, get_adalam_default_config

    if min(len(a), len(b)) < MIN_KEYPOINTS:
        return Matches.empty()
    parts = [
        (f.keypoints.xy, f.descriptors.float(), f.keypoints.angle.rad2deg(), f.keypoints.scale)
        for f in (a, b)
    ]
    (xy_a, vectors_a, angle_a, scale_a), (xy_b, vectors_b, angle_b, scale_b) = parts
    adalam = AdalamFilter({**get_adalam_default_config(), "device": xy_a.device})
    matched: Any = adalam.match_and_filter(
        k1=xy_a, k2=xy_b, d1=vectors_a, d2=vectors_b,
        im1shape=a.image_size[::-1], im2shape=b.image_size[::-1],
        o1=angle_a, o2=angle_b, s1=scale_a, s2=scale_b,
    )  # fmt: skip
    index = matched.long()
    score = (vectors_a[index[:, 0]] * vectors_b[index[:, 1]]).sum(dim=1).clamp(-1, 1)
    is_best = _best_of_each(index[:, 0], score) & _best_of_each(index[:, 1], score)
    return Matches(index[is_best], score[is_best])


def _best_of_each(
    keypoint: Int64[Tensor, " match"], score: Float[Tensor, " match"]
) -> Bool[Tensor, " match"]:
    """Say whether a match is the first of the best-scored matches of its keypoint."""
    order = torch.argsort(score, descending=True, stable=True)
    by_keypoint = order[torch.argsort(keypoint[order], stable=True)]
    sorted_keypoints = keypoint[by_keypoint]
    is_first = torch.ones_like(sorted_keypoints, dtype=torch.bool)
    is_first[1:] = sorted_keypoints[1:] != sorted_keypoints[:-1]
    is_best = torch.zeros_like(is_first)
    is_best[by_keypoint] = is_first
    return is_best
