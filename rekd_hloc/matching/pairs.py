"""Which images to match: all pairs, neighbours of several kinds, or a pairs file of hloc's form.

A user names a way to choose, with a number where it takes one, as in ``retrieval:20``, or several
with ``+`` between, whose pairs are joined: ``retrieval:20+gps:5``.
To add a way, write a :class:`PairSelector` in a file of its own and one line in
:data:`PAIR_SELECTORS`. Pairs files are in :mod:`rekd_hloc.matching.pairs_file`.
"""

import itertools
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from rekd_hloc.config import OVERLAP
from rekd_hloc.matching.pairs_file import format_pairs as format_pairs  # part of this interface
from rekd_hloc.matching.pairs_file import read_pairs as read_pairs
from rekd_hloc.matching.pairs_file import unique_pairs as unique_pairs
from rekd_hloc.matching.pairs_file import write_pairs as write_pairs
from rekd_hloc.matching.pairs_nearest import (
    DEFAULT_NEAREST,
    GpsSelector,
    LoopSelector,
    RetrievalSelector,
)
from rekd_hloc.names import counted
from rekd_hloc.storage.names import names_by_key
from rekd_hloc.types import Pair

logger = logging.getLogger(__name__)

AUTO = "auto"
"""Exhaustive up to ``MAX_EXHAUSTIVE`` images, retrieval above."""
EXHAUSTIVE = "exhaustive"
SEQUENTIAL = "sequential"
RETRIEVAL = "retrieval"
LOOPS = "loops"
GPS = "gps"
MAX_EXHAUSTIVE = 200
"""Images up to which all pairs are matched by choice of the program: 19,900 pairs."""


@runtime_checkable
class PairSelector(Protocol):
    """Chooses which images to match."""

    def __call__(self, image_dir: Path | None, names: Sequence[str]) -> list[Pair]:
        """Return pairs among the images of a folder, each pair once.

        Args:
            image_dir: the folder, None where only names are known; a selector that looks at images
                raises a ValueError then.
            names: of the images, relative to the folder.
        """


@dataclass(frozen=True)
class PairOptions:
    """What the selectors of :data:`PAIR_SELECTORS` take; each uses what concerns it."""

    overlap: int = OVERLAP
    """Images that follow in a sequence, as for :func:`sequential_pairs`."""
    number: int | None = None
    """What stands behind the selector's name, as in ``retrieval:20``; None without it."""
    features: Path | None = None
    """HDF5 file of the images' features, for retrieval."""
    codebook: str = "default"
    """Name or file of the codebook, for retrieval."""
    index: Path | None = None
    """HDF5 file of an index to go on with, for retrieval."""
    progress: bool = False
    """Show bars on stderr."""


DEFAULT_OPTIONS = PairOptions()


@dataclass(frozen=True)
class ExhaustiveSelector:
    """Pair every image with every other one."""

    options: PairOptions

    def __call__(self, image_dir: Path | None, names: Sequence[str]) -> list[Pair]:
        """See :func:`exhaustive_pairs`."""
        return exhaustive_pairs(names)


@dataclass(frozen=True)
class SequentialSelector:
    """Neighbours in the order of the numbers in the names: ``9.jpg`` comes before ``10.jpg``."""

    options: PairOptions

    def __call__(self, image_dir: Path | None, names: Sequence[str]) -> list[Pair]:
        """See :func:`sequential_pairs`."""
        number = self.options.number
        return sequential_pairs(
            natural_order(names), self.options.overlap if number is None else number
        )


@dataclass(frozen=True)
class FileSelector:
    """Read the pairs of a file."""

    path: Path

    def __call__(self, image_dir: Path | None, names: Sequence[str]) -> list[Pair]:
        """See :func:`read_pairs`."""
        return read_pairs(self.path, names)


@dataclass(frozen=True)
class UnionSelector:
    """Join the pairs of several selectors."""

    parts: tuple[PairSelector, ...]

    def __call__(self, image_dir: Path | None, names: Sequence[str]) -> list[Pair]:
        """Return all their pairs, each once."""
        pairs = [pair for part in self.parts for pair in part(image_dir, names)]
        return unique_pairs(pairs, names)


PAIR_SELECTORS: dict[str, Callable[[PairOptions], PairSelector]] = {
    EXHAUSTIVE: ExhaustiveSelector,
    SEQUENTIAL: SequentialSelector,
    RETRIEVAL: RetrievalSelector,
    LOOPS: LoopSelector,
    GPS: GpsSelector,
}
"""What makes a selector, by the name that users give it; every other name is a pairs file's."""


def make_selector(source: str | Path, options: PairOptions = DEFAULT_OPTIONS) -> PairSelector:
    """Make the selector of a name in :data:`PAIR_SELECTORS`, of several, or of a pairs file.

    Args:
        source: a name, with ``:`` and a number where one is set; several with ``+``; or a file.
        options: of the selectors.

    Raises:
        FileNotFoundError: a part of the source is neither.
        ValueError: a number that is none, or is below 1.
    """
    parts = [] if isinstance(source, Path) else str(source).split("+")
    if not parts or (Path(source).is_file() and _selector_name(str(source)) is None):
        parts = [str(source)]
    if len(parts) > 1:
        steps = [_number(part, SEQUENTIAL) for part in parts if _selector_name(part) == SEQUENTIAL]
        if steps and steps[0] is not None:  # loops begin where the sequence's pairs end
            options = replace(options, overlap=steps[0])
        return UnionSelector(tuple(make_selector(part, options) for part in parts))
    name = None if isinstance(source, Path) else _selector_name(parts[0])
    if name is not None:
        number = _number(parts[0], name)
        return PAIR_SELECTORS[name](options if number is None else replace(options, number=number))
    if not Path(parts[0]).is_file():
        raise FileNotFoundError(
            f"no pairs file {parts[0]!r}; pairs are {', '.join(PAIR_SELECTORS)} or a file"
        )
    return FileSelector(Path(parts[0]))


def settle_source(source: str | Path, num_images: int) -> str | Path:
    """Return what ``auto`` stands for, and say so where it is not all pairs; others as they are."""
    if isinstance(source, str) and "+" in source:
        return "+".join(str(settle_source(part, num_images)) for part in source.split("+"))
    if source != AUTO:
        return source
    if num_images <= MAX_EXHAUSTIVE:
        return EXHAUSTIVE
    chosen = f"{RETRIEVAL}:{DEFAULT_NEAREST}"
    logger.warning(
        "%s: each is matched with the %d that look most like it (--pairs %s); "
        "--pairs exhaustive matches all %d pairs",
        counted(num_images, "image"), DEFAULT_NEAREST, chosen, num_images * (num_images - 1) // 2,
    )  # fmt: skip
    return chosen


def needs_features(source: str | Path) -> bool:
    """Say whether pairs can only be chosen once the images' features are there."""
    parts = [] if isinstance(source, Path) else source.split("+")
    return bool({RETRIEVAL, LOOPS} & {_selector_name(part) for part in parts})


def depends_on_others(source: str | Path) -> bool:
    """Say whether the pair of two images depends on which other images take part."""
    parts = [] if isinstance(source, Path) else source.split("+")
    return bool({SEQUENTIAL, RETRIEVAL, LOOPS, GPS} & {_selector_name(part) for part in parts})


def make_pairs(
    names: Sequence[str],
    source: str | Path,
    *,
    overlap: int = OVERLAP,
    image_dir: Path | None = None,
    features: Path | None = None,
    codebook: str = "default",
    index: Path | None = None,
    progress: bool = False,
) -> list[Pair]:
    """Choose pairs among images as a user asks for them.

    Args:
        names: of the images.
        source: ``exhaustive``; ``sequential`` (in the order of the numbers in the names);
            ``retrieval:20`` (those that look alike); ``loops:20`` (of a sequence, those that look
            alike and are far apart); ``gps:20``; several with ``+``; ``auto``; or a pairs file.
        overlap: as for :func:`sequential_pairs`.
        image_dir: folder of the images, for selectors that look at them.
        features, codebook, index, progress: see :class:`PairOptions`.

    Raises:
        FileNotFoundError, ValueError: as :func:`make_selector`, :func:`read_pairs` and the
            selectors; or hloc's files of matches could not tell two of the names apart.
    """
    names_by_key(names)
    options = PairOptions(overlap, None, features, codebook, index, progress)
    return make_selector(settle_source(source, len(names)), options)(image_dir, names)


def exhaustive_pairs(names: Sequence[str]) -> list[Pair]:
    """Return every image with every other one once, in the order of the names.

    Raises:
        ValueError: a name occurs twice.
    """
    _require_unique(names)
    return list(itertools.combinations(names, 2))


def sequential_pairs(
    names: Sequence[str], overlap: int = OVERLAP, *, quadratic: bool = True
) -> list[Pair]:
    """Return every image with those that follow it, for video and images taken in order.

    Args:
        names: in the order in which they were taken.
        overlap: each image is paired with the next ``overlap`` ones, at least 1.
        quadratic: also with those 1, 2, 4, .. 2^(overlap - 1) images further on, as in COLMAP's
            sequential matching: far pairs that hold a long sequence together.

    Raises:
        ValueError: a name occurs twice, or ``overlap`` is below 1.
    """
    if overlap < 1:
        raise ValueError(f"overlap must be at least 1, got {overlap}")
    _require_unique(names)
    steps = set(range(1, overlap + 1))
    if quadratic:
        exponents = range(min(overlap, len(names).bit_length()))
        steps |= {2**exponent for exponent in exponents}
    return [
        (name, names[index + step])
        for index, name in enumerate(names)
        for step in sorted(steps)
        if index + step < len(names)
    ]


def _require_unique(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise ValueError(f"image name {twice!r} occurs twice; every image needs its own")


def natural_order(names: Sequence[str]) -> list[str]:
    """Return names sorted by the values of the numbers in them."""
    return sorted(names, key=_natural_key)


def _selector_name(text: str) -> str | None:
    """Return the selector that a text such as ``retrieval:20`` names; None if it names none."""
    name, colon, number = text.partition(":")
    return name if name in PAIR_SELECTORS and (not colon or number.strip("-").isdecimal()) else None


def _number(text: str, name: str) -> int | None:
    _, colon, number = text.partition(":")
    if not colon:
        return None
    if name == EXHAUSTIVE:
        raise ValueError(f"{name} takes no number, got {text!r}; leave {colon + number!r} out")
    if int(number) < 1:
        raise ValueError(f"{name} needs a number of at least 1, got {text!r}")
    return int(number)


def _natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts numbers in a name by their value."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
