"""Scenes with the candidates of their photos."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from rekd_hloc.features.described import Described
from training.scenes.real_pairs import MAX_PAIRS, PairTruth, RealPairs
from training.selection.candidates import CandidateCache

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SceneFolders:
    """Reconstructions, and the photos of each."""

    models: tuple[str, ...] = ()
    """Folders of COLMAP models, of any features."""
    images: tuple[str, ...] = ()
    """Folder of the photos of each, in the same order."""
    max_pairs: int = MAX_PAIRS
    """Largest number of pairs of a scene, spread over its baselines."""
    max_views: int = 0
    """Photos of a scene, the first by name; 0 takes all."""

    def __post_init__(self) -> None:
        if len(self.models) != len(self.images):
            raise ValueError(
                f"models and images must be as many, got {len(self.models)} and {len(self.images)}"
            )
        if self.max_pairs < 1 or self.max_views < 0:
            raise ValueError(
                "max_pairs must be positive and max_views not negative, got "
                f"{self.max_pairs} and {self.max_views}"
            )


@dataclass(frozen=True)
class StudyScene:
    """One scene with the candidates of its photos, by view."""

    name: str
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
    for model, images in zip(folders.models, folders.images, strict=True):
        pairs = RealPairs.read(
            Path(model),
            Path(images),
            max_pairs=folders.max_pairs,
            max_views=folders.max_views,
            seed=seed,
        )
        name = Path(images).name
        views = pairs.geometry.views
        candidates = {
            view: cache.read(views[view].path)
            for view in tqdm(pairs.used_views, desc=name, disable=quiet or None)
        }
        logger.info("%s: %d pairs of %d photos", name, len(pairs.pairs), len(candidates))
        yield StudyScene(name, pairs, candidates)
