"""Pairs of real photos on which a descriptor is validated, beside those of warped images.

The reconstruction says where a keypoint of one photo lies in the other, so change of viewpoint and
of light is what the photos show.
"""

import torch

from rekd_hloc.features.detector.detect import Detector
from rekd_hloc.images import read_color
from rekd_hloc.types import Keypoints
from training.descriptor_validation import Side, ValidationPair, make_side
from training.scenes.real_pairs import RIGHT_PX, PairTruth
from training.scenes.scene_folders import SceneFolders
from training.tracks import TrackConfig
from training.warps import plain_view


def make_real_pairs(
    folders: SceneFolders,
    detector: Detector,
    config: TrackConfig,
    *,
    max_keypoints: int,
    seed: int,
) -> list[ValidationPair]:
    """Make the pairs of scenes, of oriented patches; each photo is read and detected once.

    Raises:
        FileNotFoundError: no such model or photo.
    """
    made = []
    for _, pairs in folders.read_pairs(seed):
        sides: dict[int, Side] = {}
        for view in pairs.used_views:
            grey = plain_view(read_color(pairs.geometry.views[view].path)).grey
            sides[view] = make_side(
                grey, detector, config, upright=False, max_keypoints=max_keypoints
            )
        lifted = pairs.lift({view: side.keypoints for view, side in sides.items()})
        for pair in pairs.pairs:
            truth = pairs.truth(lifted, pair)
            made.append(_pair(sides[pair[0]], sides[pair[1]], truth))
    return made


def _pair(a: Side, b: Side, truth: PairTruth) -> ValidationPair:
    distance = torch.cdist(truth.a_in_b.xy, truth.b.xy)
    return ValidationPair(
        a=a,
        b=b,
        a_in_b=truth.a_in_b.xy,
        allowed_px=RIGHT_PX * _larger(truth.a_in_b, truth.b),
        is_judged=truth.is_seen_in_b,
        is_same_point=distance <= 2 * RIGHT_PX * _larger(truth.a_in_b, truth.b),
        partner=truth.partner,
    )


def _larger(a: Keypoints, b: Keypoints) -> torch.Tensor:
    return torch.maximum(a.scale[:, None], b.scale[None]).clamp(min=1)
