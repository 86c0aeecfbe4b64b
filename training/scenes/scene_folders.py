"""Folders of reconstructions and of their photos, as options of programs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.scenes.pair_choice import MAX_PAIRS
from training.scenes.real_pairs import RealPairs


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

    def read_pairs(self, seed: int) -> Iterator[tuple[str, RealPairs]]:
        """Return the name of each scene's folder of photos, and its pairs.

        Raises:
            FileNotFoundError: no such model or photo.
        """
        for model, images in zip(self.models, self.images, strict=True):
            pairs = RealPairs.read(
                Path(model),
                Path(images),
                max_pairs=self.max_pairs,
                max_views=self.max_views,
                seed=seed,
            )
            yield Path(images).name, pairs
