"""What a ranking is trained on: how often each candidate of a photo is matched rightly."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree
from torch import Tensor

from rekd_hloc.config import DetectorConfig
from rekd_hloc.features.described import Described
from rekd_hloc.features.ranking import LooksAt, Ranking, read_signs
from rekd_hloc.matching.nearest import match_nearest
from training.scenes.real_pairs import RealPairs
from training.selection.choices import by_score
from training.selection.study_scenes import StudyScene

RATIO = 0.95
"""Of the matches that count."""
NEAREST = 8
"""Candidates on planes that say how visible one is whose plane is not known."""
Counts = tuple[Float[Tensor, " keypoint"], Float[Tensor, " keypoint"]]
"""Photos in which each candidate of a photo is visible, and those in which its match is right."""


@dataclass(frozen=True)
class RankedImage:
    """The candidates of one photo.

    Attributes:
        signs: what the network looks at, see :func:`~rekd_hloc.features.ranking.read_signs`.
        num_seen: other photos in which each candidate is visible, in parts where it is unsure.
        num_right: those of them in which its match is right; see :func:`count_right`.
        score: of the detector, which the network competes with.
        taught: how likely each is to be matched rightly, as a teacher says; None without one.
    """

    signs: Float[Tensor, "keypoint sign"]
    num_seen: Float[Tensor, " keypoint"]
    num_right: Float[Tensor, " keypoint"]
    score: Float[Tensor, " keypoint"]
    taught: Float[Tensor, " keypoint"] | None = None

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
    looks_at: LooksAt,
    teacher: Ranking | None = None,
) -> list[RankedImage]:
    """Match the pairs of scenes and count.

    Args:
        scenes: with candidates.
        detector: its options, for the choice of the pool.
        pool: candidates of a photo, the strongest; matches are sought among them.
        looks_at: see :class:`~rekd_hloc.features.ranking.Ranking`.
        teacher: a ranking whose judgement of each candidate is to be learned too.
    """
    images = []
    for scene in scenes:
        chosen = {
            view: candidates[by_score(candidates, replace(detector, max_keypoints=pool))]
            for view, candidates in scene.candidates.items()
        }
        counts = count_right(scene.pairs, chosen)
        for view, candidates in chosen.items():
            signs = read_signs(candidates, looks_at)
            taught = None if teacher is None else teacher.logits(candidates).sigmoid()
            images.append(RankedImage(signs, *counts[view], candidates.keypoints.score, taught))
    return [image for image in images if image.num_right.sum() > 0]


def count_right(pairs: RealPairs, chosen: Mapping[int, Described]) -> dict[int, Counts]:
    """Count in how many other photos each candidate is visible, and in how many matched rightly.

    A candidate on a plane of the model is visible where the model says so, and its match is right
    if it ends where the plane puts it. Sky, leaves and people have no plane, and learning to leave
    them out is the point: they count as visible by the share of the nearest candidates on planes
    that are, and as right where their match lies on the epipolar line.
    """
    counts = {view: (torch.zeros(len(c)), torch.zeros(len(c))) for view, c in chosen.items()}
    lifted = pairs.lift({view: c.keypoints for view, c in chosen.items()})
    for a, b in pairs.pairs:
        truth = pairs.truth(lifted, (a, b))
        index = match_nearest(chosen[a].descriptors, chosen[b].descriptors, ratio=RATIO).index
        is_right = truth.is_right(index)
        matched = chosen[a].keypoints[index[:, 0]], chosen[b].keypoints[index[:, 1]]
        is_on_line = pairs.is_on_line((a, b), *matched)
        for view, side, is_seen in ((a, 0, truth.is_seen_in_b), (b, 1, truth.is_seen_in_a)):
            on_plane = torch.from_numpy(lifted[view].is_lifted)
            visible = _visible(chosen[view].keypoints.xy, on_plane, is_seen)
            rows = index[:, side]
            right = torch.where(on_plane[rows], is_right & is_seen[rows], is_on_line)
            counts[view][0].add_(visible)
            counts[view][1].index_add_(0, rows, right * visible[rows])
    return counts


def _visible(
    xy: Float[Tensor, "keypoint 2"],
    on_plane: Bool[Tensor, " keypoint"],
    is_seen: Bool[Tensor, " keypoint"],
) -> Float[Tensor, " keypoint"]:
    """Return 0 or 1 where it is known, elsewhere the mean of the nearest where it is."""
    visible = is_seen.float()
    known = xy[on_plane].double().numpy()
    if len(known) == 0:
        return torch.zeros_like(visible)
    _, near = cKDTree(known).query(xy[~on_plane].double().numpy(), k=min(NEAREST, len(known)))
    rows = torch.from_numpy(near).reshape(int((~on_plane).sum()), -1)
    visible[~on_plane] = is_seen[on_plane].float()[rows].mean(dim=1)
    return visible
