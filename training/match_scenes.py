"""Pairs of photos of reconstructions, with what their geometry says of the matches.

A keypoint on a known surface has a place in the other photo, and a match of it is right if it ends
there. Of other keypoints the poses give the epipolar line: far from it a match is wrong, and on it
nothing is known.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from evaluation.extractors.extraction import digest_of, digest_of_files
from rekd_hloc.storage.features import FeatureStore
from training.match_pairs import LabelledPair, match_features, read_pyramid, strongest
from training.scenes.geometry import models_hash
from training.scenes.real_pairs import RIGHT_PX, PairTruth, RealPairs, sampson_distance
from training.scenes.scene_folders import SceneFolders

WRONG_PX = 6.0
"""Smallest distance to the epipolar line of a match that is surely wrong, in pixels times the
keypoint's scale where that is above 1."""
NEARLY = 3.0
"""An error up to this, times the largest of a right match, may be one of the reconstruction's."""
MIN_MATCHES = 30
"""Fewest matches of a pair that is learned from."""


@dataclass(frozen=True)
class MatchScenes:
    """Reconstructions, and this project's features of their photos."""

    folders: SceneFolders = field(default_factory=lambda: SceneFolders(max_pairs=80))
    """Models and photos."""
    features: tuple[str, ...] = ()
    """File of features of the photos of each, in the same order."""
    budgets: tuple[int, ...] = (2048,)
    """Keypoints of a photo; the pairs of a scene take them in turn."""

    def __post_init__(self) -> None:
        if len(self.features) != len(self.folders.models):
            raise ValueError(
                "features and folders.models must be as many, got "
                f"{len(self.features)} and {len(self.folders.models)}"
            )
        if not self.budgets or min(self.budgets) < 1:
            raise ValueError(f"budgets must be positive numbers, got {self.budgets}")

    def digest(self, seed: int) -> str:
        """Return a hash of all that the pairs depend on.

        Raises:
            FileNotFoundError: no such model or features.
        """
        options = [self.folders.max_pairs, self.folders.max_views, list(self.budgets), seed]
        files = digest_of_files([Path(path) for path in self.features])
        return digest_of(
            {"models": models_hash(self.folders.models), "features": files, "options": options}
        )

    def pairs_of(
        self, number: int, seed: int, *, with_correlation: bool = False
    ) -> Iterator[LabelledPair]:
        """Return the pairs of one scene.

        Args:
            number: of the scene.
            seed: of the choice of pairs.
            with_correlation: tell how well the photos correlate about each match.

        Raises:
            FileNotFoundError: no such model, photo or features.
        """
        folders = self.folders
        real = RealPairs.read(
            Path(folders.models[number]),
            Path(folders.images[number]),
            max_pairs=folders.max_pairs,
            max_views=folders.max_views,
            seed=seed,
        )
        with FeatureStore(Path(self.features[number])) as store:
            yield from _pairs_of(real, store, self.budgets, with_correlation)


def label_matches(
    real: RealPairs, pair: tuple[int, int], truth: PairTruth, index: Int64[Tensor, "match 2"]
) -> tuple[Bool[Tensor, " match"], Bool[Tensor, " match"]]:
    """Return which matches of a pair of views are right, and of which that is known."""
    of, to = (real.geometry.views[view] for view in pair)
    matched_a, matched_b = truth.a[index[:, 0]], truth.b[index[:, 1]]
    there = truth.a_in_b[index[:, 0]]
    is_judged, is_right = truth.is_judged(index), truth.is_right(index)
    size = torch.maximum(there.scale, matched_b.scale).clamp(min=1)
    is_near = (there.xy - matched_b.xy).norm(dim=1) <= NEARLY * RIGHT_PX * size
    distance = sampson_distance(
        of, to, matched_a.xy.double().numpy(), matched_b.xy.double().numpy()
    )
    larger = torch.maximum(matched_a.scale, matched_b.scale).clamp(min=1)
    is_off = torch.from_numpy(distance) > WRONG_PX * larger
    return is_right, is_right | is_off | (is_judged & ~is_near)


def _pairs_of(
    real: RealPairs, store: FeatureStore, budgets: tuple[int, ...], with_correlation: bool
) -> Iterator[LabelledPair]:
    names = [view.name for view in real.geometry.views]
    pyramids = {}
    if with_correlation:
        pyramids = {v: read_pyramid(real.geometry.views[v].path) for v in real.used_views}
    features = {view: store.read(names[view]) for view in real.used_views}
    kept = {
        budget: {view: strongest(of_view, budget) for view, of_view in features.items()}
        for budget in budgets
    }
    lifted = {
        budget: real.lift({view: f.keypoints for view, f in of_budget.items()})
        for budget, of_budget in kept.items()
    }
    for number, (a, b) in enumerate(real.pairs):
        budget = budgets[number % len(budgets)]
        images = (pyramids[a], pyramids[b]) if with_correlation else None
        index, evidence = match_features(kept[budget][a], kept[budget][b], images)
        if len(index) < MIN_MATCHES:
            continue
        truth = real.truth(lifted[budget], (a, b))
        is_right, is_known = label_matches(real, (a, b), truth, index)
        yield LabelledPair(evidence, is_right, is_known, is_rigid=True)
