"""What a ranking is trained on: how often each candidate of a photo is matched rightly."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from rekd_hloc.config import DetectorConfig
from rekd_hloc.features.ranking import read_signs
from rekd_hloc.matching.nearest import match_nearest
from training.selection.choices import by_score
from training.selection.study_scenes import StudyScene

RATIO = 0.95
"""Of the matches that count."""


@dataclass(frozen=True)
class RankedImage:
    """The candidates of one photo.

    Attributes:
        signs: what the network looks at, see :func:`~rekd_hloc.features.ranking.read_signs`.
        num_seen: other photos in which each candidate's place is known.
        num_right: those of them in which its match is right.
        score: of the detector, which the network competes with.
    """

    signs: Float[Tensor, "keypoint sign"]
    num_seen: Float[Tensor, " keypoint"]
    num_right: Float[Tensor, " keypoint"]
    score: Float[Tensor, " keypoint"]

    def kept_share(self, value: Float[Tensor, " keypoint"], share: float) -> float:
        """Return the share of all right matches that the best candidates by a value keep.

        Args:
            value: of each candidate; those with the highest are kept.
            share: of the candidates that are kept.
        """
        best = torch.argsort(value, descending=True, stable=True)
        kept = self.num_right[best[: round(share * len(best))]].sum()
        return float(kept / self.num_right.sum().clamp(min=1))


def ranked_images(
    scenes: Iterable[StudyScene],
    detector: DetectorConfig,
    *,
    pool: int,
    with_descriptor: bool,
) -> list[RankedImage]:
    """Match the pairs of scenes and count.

    Args:
        scenes: with candidates.
        detector: its options, for the choice of the pool.
        pool: candidates of a photo, the strongest; matches are sought among them.
        with_descriptor: see :func:`~rekd_hloc.features.ranking.read_signs`.
    """
    images = []
    for scene in scenes:
        chosen = {
            view: candidates[by_score(candidates, replace(detector, max_keypoints=pool))]
            for view, candidates in scene.candidates.items()
        }
        seen = {view: torch.zeros(len(c)) for view, c in chosen.items()}
        right = {view: torch.zeros(len(c)) for view, c in chosen.items()}
        for (a, b), truth in replace(scene, candidates=chosen).truths():
            rows = chosen[a].descriptors, chosen[b].descriptors
            index = match_nearest(*rows, ratio=RATIO).index
            is_right = truth.is_right(index)
            seen[a] += truth.is_seen_in_b
            seen[b] += truth.is_seen_in_a
            right[a][index[is_right, 0]] += 1
            right[b][index[is_right & truth.is_seen_in_a[index[:, 1]], 1]] += 1
        for view, candidates in chosen.items():
            signs = read_signs(candidates, with_descriptor=with_descriptor)
            images.append(RankedImage(signs, seen[view], right[view], candidates.keypoints.score))
    return [image for image in images if image.num_right.sum() > 0]
