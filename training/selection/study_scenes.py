"""Scenes with the candidates of their photos."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tqdm import tqdm

from rekd_hloc.features.described import Described
from training.scenes.geometry import models_hash
from training.scenes.real_pairs import PairTruth, RealPairs
from training.scenes.scene_folders import SceneFolders
from training.selection.candidates import CandidateCache

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyScene:
    """One scene with the candidates of its photos, by view.

    Attributes:
        name: of the folder of its photos.
        model_hash: of the reconstruction that says what is right.
        pairs: of its photos.
        candidates: of each photo, by view.
    """

    name: str
    model_hash: str
    pairs: RealPairs
    candidates: Mapping[int, Described]

    def truths(self) -> Iterator[tuple[tuple[int, int], PairTruth]]:
        """Return the pairs, and what is right between all candidates of each."""
        lifted = self.pairs.lift({view: c.keypoints for view, c in self.candidates.items()})
        for pair in self.pairs.pairs:
            yield pair, self.pairs.truth(lifted, pair)


def load_scenes(
    folders: SceneFolders, cache: CandidateCache, *, seed: int, quiet: bool
) -> Iterator[StudyScene]:
    """Read scenes, and extract the candidates that are missing.

    Raises:
        FileNotFoundError: no such model or photo.
    """
    for model, (name, pairs) in zip(folders.models, folders.read_pairs(seed), strict=True):
        views = pairs.geometry.views
        candidates = {
            view: cache.read(views[view].path)
            for view in tqdm(pairs.used_views, desc=name, disable=quiet or None)
        }
        logger.info("%s: %d pairs of %d photos", name, len(pairs.pairs), len(candidates))
        yield StudyScene(name, models_hash([model]), pairs, candidates)
