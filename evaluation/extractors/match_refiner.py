"""Matches of two pictures in memory with refined positions, for metrics that look at features."""

from dataclasses import dataclass, replace

import torch

from evaluation.extractors.named_extractor import NamedExtractor, select
from rekd_hloc.refinement.pairs import refine
from rekd_hloc.refinement.pyramid import ImagePyramid
from rekd_hloc.types import Features, Matches


@dataclass(frozen=True, eq=False)
class MatchRefiner:
    """Refine matches between the images of features.

    Attributes:
        image_a: in the frame of the features.
        image_b: likewise.
        method: whose features they are.
    """

    image_a: ImagePyramid
    image_b: ImagePyramid
    method: NamedExtractor

    def __call__(
        self, a: Features, b: Features, matches: Matches
    ) -> tuple[Features, Features, Matches]:
        """Return the matched features alone, those of ``b`` moved, and their matches, 0 to 0, ...

        So every metric of features and matches measures refined positions as it does others.
        """
        found = refine(
            self.image_a,
            self.image_b,
            self.method.in_levels(a.keypoints),
            self.method.in_levels(b.keypoints),
            matches,
        )
        index_a, index_b = matches.index.unbind(dim=1)
        matched_a, matched_b = select(a, index_a), select(b, index_b)
        moved = replace(matched_b, keypoints=replace(matched_b.keypoints, xy=found.xy_b))
        order = torch.arange(len(matches))
        return matched_a, moved, Matches(torch.stack([order, order], dim=1), matches.score)
