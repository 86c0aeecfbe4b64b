"""Scales and angles of any extractor's keypoints, in the sense that this package gives them.

Our scale 1 is the image's own size. Other programs store sigmas, of which SIFT finds 1.6 px there.
Where there is no scale, the spacing of the keypoints tells how
coarse the pixels were on which they were found. Where there is no angle, the image is upright.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.storage.provenance import stored_config
from rekd_hloc.types import Keypoints

SCALES = ("auto", "rekd", "sigma")
SIGMA_OF_LEVEL = 1.6
"""Blur in pixels of what SIFT finds at the image's own size. With it, refinement brings RootSIFT's
matches within 1 px of known homographies from 45.9 % to 53.1 %; with 12 / 64 of a sigma, which
makes patches equal, to 51.1 %."""
SPACING_PX = 8.0
"""Median distance to the nearest keypoint where detectors work at the image's own size: they keep
one keypoint in some 8 px (SuperPoint's cell)."""
MOST_OF_SIDE = 1 / 84
"""Largest such scale, in the shorter side of the image: a window of 21 samples, half a scale apart,
then has an eighth of it."""
MIN_SCALE = 1e-3
"""In place of zero, which some programs store."""
NUM_MEASURED = 1_024
"""Keypoints whose nearest neighbour is looked for."""
AT_ONCE = 256


def check_scales(scales: str) -> None:
    """Refuse a sense of scales that there is not.

    Raises:
        ValueError: it is none of ``SCALES``.
    """
    if scales not in SCALES:
        raise ValueError(f"scales must be one of {', '.join(SCALES)}, got {scales!r}")


def read_frames(features: FeatureStore, name: str, scales: str = "auto") -> Keypoints:
    """Return the keypoints of an image with scales in the sense of this package.

    Args:
        features: of any extractor.
        name: of the image.
        scales: what they are in the file: ``rekd`` as in this package, ``sigma`` as in COLMAP, or
            ``auto``: ``rekd`` if the file says that this package made it, else ``sigma``.

    Raises:
        ValueError: the file lacks the image, or is damaged there.
    """
    keypoints = features.read_keypoints(name)
    if features.has_scale(name):
        is_ours = scales == "rekd" or (scales == "auto" and is_native(features))
        factor = 1.0 if is_ours else 1 / SIGMA_OF_LEVEL
        return replace(keypoints, scale=(keypoints.scale * factor).clamp(min=MIN_SCALE))
    scale = scale_from_spacing(keypoints.xy, features.image_size(name))
    return replace(keypoints, scale=torch.full_like(keypoints.scale, scale))


def is_native(features: FeatureStore) -> bool:
    """Say whether a file records a configuration of this package, and so has its scales."""
    return "descriptor" in stored_config(features.provenance)


def scale_from_spacing(
    xy: Float[Tensor, "keypoint 2"], image_size: tuple[int, int] | None
) -> float:
    """Return one scale for all keypoints of an image, from the distances between neighbours.

    It is the median distance of a keypoint to the nearest other one over ``SPACING_PX``, at least
    1 and at most ``MOST_OF_SIDE`` of the image's shorter side. Keypoints at one place count once.

    Args:
        xy: in pixels of the image.
        image_size: (width, height) in pixels; None sets no upper limit but the spread of ``xy``.
    """
    places = torch.unique(xy, dim=0)
    if len(places) < 2:
        return 1.0
    extent = places.amax(dim=0) - places.amin(dim=0)
    shorter = float(min(image_size)) if image_size is not None else float(extent.min())
    step = -(-len(places) // NUM_MEASURED)
    nearest = []
    for some in places[::step].split(AT_ONCE):
        distance = torch.cdist(some, places, compute_mode="donot_use_mm_for_euclid_dist")
        nearest.append(distance.masked_fill(distance == 0, torch.inf).amin(dim=1))
    scale = float(torch.cat(nearest).median()) / SPACING_PX
    return max(1.0, min(scale, shorter * MOST_OF_SIDE))
