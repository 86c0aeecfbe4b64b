"""Pairs of each image with its nearest ones: by what they show, or by where they were taken."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rekd_hloc.names import counted
from rekd_hloc.retrieval.codebook import load_codebook
from rekd_hloc.retrieval.gps import nearest_positions, read_positions
from rekd_hloc.retrieval.index import nearest_images
from rekd_hloc.retrieval.signatures import read_signatures
from rekd_hloc.types import Pair

if TYPE_CHECKING:
    from rekd_hloc.matching.pairs import PairOptions

logger = logging.getLogger(__name__)

DEFAULT_NEAREST = 30
"""Images that each is paired with, unless said otherwise."""


@dataclass(frozen=True)
class RetrievalSelector:
    """Pair each image with those that look most like it; needs the images' features."""

    options: "PairOptions"
    min_gap: int = 0
    """As for :func:`rekd_hloc.retrieval.index.nearest_images`."""

    def __call__(self, image_dir: Path | None, names: Sequence[str]) -> list[Pair]:
        """Return the pairs of :func:`rekd_hloc.retrieval.index.nearest_images`.

        Raises:
            ValueError: no features are named, or as :func:`read_signatures`.
        """
        options = self.options
        if options.features is None:
            raise ValueError(
                "retrieval compares features: extract them first, and name their file by --features"
            )
        signatures = read_signatures(
            options.features, names, load_codebook(options.codebook),
            index_path=options.index, progress=options.progress,
        )  # fmt: skip
        count = DEFAULT_NEAREST if options.number is None else options.number
        found = nearest_images(signatures, count, min_gap=self.min_gap)
        alone = [name for name in names if not found[name]]
        if alone and not self.min_gap and len(names) > 1:
            number = counted(len(alone), "image looks like", "images look like")
            logger.warning("%s no other, such as %r", number, alone[0])
        return pairs_of(found)


@dataclass(frozen=True)
class LoopSelector:
    """Pair images of a sequence that look alike and are far apart in it."""

    options: "PairOptions"

    def __call__(self, image_dir: Path | None, names: Sequence[str]) -> list[Pair]:
        """Return pairs of images more than ``overlap`` places apart in the order of the names."""
        from rekd_hloc.matching.pairs import natural_order

        return RetrievalSelector(self.options, self.options.overlap)(
            image_dir, natural_order(names)
        )


@dataclass(frozen=True)
class GpsSelector:
    """Pair each image with those that were taken nearest to it, as EXIF says."""

    options: "PairOptions"

    def __call__(self, image_dir: Path | None, names: Sequence[str]) -> list[Pair]:
        """Return the pairs of :func:`rekd_hloc.retrieval.gps.nearest_positions`.

        Raises:
            ValueError: there is no folder of images, or no image has a position.
        """
        if image_dir is None:
            raise ValueError("gps reads the photos' EXIF: name their folder (--images)")
        positions = read_positions(image_dir, names)
        if not positions and names:
            raise ValueError(
                f"no photo in {image_dir} has a GPS position; choose other --pairs, like retrieval"
            )
        if len(positions) < len(names):
            logger.warning(
                "%s no GPS position and gps finds no partner for them; add +retrieval for those",
                counted(len(names) - len(positions), "photo has", "photos have"),
            )
        count = DEFAULT_NEAREST if self.options.number is None else self.options.number
        return pairs_of(nearest_positions(positions, count))


def pairs_of(nearest: Mapping[str, Iterable[str]]) -> list[Pair]:
    """Return each pair once, its images in the order of the mapping."""
    place = {name: number for number, name in enumerate(nearest)}
    pairs = {
        (a, b) if place[a] < place[b] else (b, a) for a, others in nearest.items() for b in others
    }
    return sorted(pairs, key=lambda pair: (place[pair[0]], place[pair[1]]))
