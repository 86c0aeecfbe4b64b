"""Which images to match: all pairs, neighbours in a sequence, or a pairs file of hloc's form.

A pairs file has one pair on a line, two names with white space between. hloc cannot read names that
hold white space themselves; here a line is split where both parts are names of known images.

To add a way of choosing pairs, write a :class:`PairSelector` in a file of its own and one line in
:data:`PAIR_SELECTORS`.
"""

import itertools
import logging
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from rekd_hloc.known_names import find_name, suggest
from rekd_hloc.ownership import replace_text
from rekd_hloc.storage.names import names_by_key
from rekd_hloc.types import Pair

logger = logging.getLogger(__name__)

EXHAUSTIVE = "exhaustive"
SEQUENTIAL = "sequential"


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

    overlap: int = 10
    """Images that follow in a sequence, as for :func:`sequential_pairs`."""


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
        return sequential_pairs(sorted(names, key=_natural_key), self.options.overlap)


@dataclass(frozen=True)
class FileSelector:
    """Read the pairs of a file."""

    path: Path

    def __call__(self, image_dir: Path | None, names: Sequence[str]) -> list[Pair]:
        """See :func:`read_pairs`."""
        return read_pairs(self.path, names)


PAIR_SELECTORS: dict[str, Callable[[PairOptions], PairSelector]] = {
    EXHAUSTIVE: ExhaustiveSelector,
    SEQUENTIAL: SequentialSelector,
}
"""What makes a selector, by the name that users give it; every other name is a pairs file's."""


def make_selector(source: str | Path, options: PairOptions = DEFAULT_OPTIONS) -> PairSelector:
    """Make the selector of a name in :data:`PAIR_SELECTORS`, or of a pairs file.

    Raises:
        FileNotFoundError: the source is neither.
    """
    if str(source) in PAIR_SELECTORS and not isinstance(source, Path):
        return PAIR_SELECTORS[str(source)](options)
    if not Path(source).is_file():
        raise FileNotFoundError(
            f"no pairs file {str(source)!r}; pairs are {', '.join(PAIR_SELECTORS)} or a file"
        )
    return FileSelector(Path(source))


def make_pairs(
    names: Sequence[str],
    source: str | Path,
    *,
    overlap: int = 10,
    image_dir: Path | None = None,
) -> list[Pair]:
    """Choose pairs among images as a user asks for them.

    Args:
        names: of the images.
        source: ``exhaustive``; ``sequential`` (in the order of the numbers in the names, so that
            ``9.jpg`` comes before ``10.jpg``); or a pairs file.
        overlap: as for :func:`sequential_pairs`.
        image_dir: folder of the images, for selectors that look at them.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_pairs` and :func:`sequential_pairs`; or files
            of matches in hloc's form could not tell two of the names apart.
    """
    names_by_key(names)
    return make_selector(source, PairOptions(overlap))(image_dir, names)


def exhaustive_pairs(names: Sequence[str]) -> list[Pair]:
    """Return every image with every other one once, in the order of the names.

    Raises:
        ValueError: a name occurs twice.
    """
    _require_unique(names)
    return list(itertools.combinations(names, 2))


def sequential_pairs(
    names: Sequence[str], overlap: int = 10, *, quadratic: bool = True
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


def read_pairs(path: Path, names: Collection[str]) -> list[Pair]:
    """Return the pairs of a file, in its order, each once in whichever direction came first.

    Empty lines are skipped, and lines that begin with ``#`` unless they are a pair of known names.

    Args:
        path: one pair on a line, UTF-8.
        names: of the known images; they may hold spaces.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: with file and line: an unknown image (and the known one nearest to it), an image
            paired with itself, a line that can be split in two ways or is no pair at all.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no pairs file {path}")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"pairs file {path} is no UTF-8 text: {error.reason}") from error
    known = frozenset(names)
    pairs: list[Pair] = []
    for number, line in enumerate(lines, start=1):
        try:
            pair = _split_line(line.strip(), known)
            pairs += unique_pairs([pair] if pair else [], known)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return unique_pairs(pairs, known)


def write_pairs(path: Path, pairs: Iterable[Pair], *, overwrite: bool = False) -> None:
    """Write pairs in hloc's form, one on a line; the file appears whole or not at all.

    Args:
        path: the file. One that is there stays unless it holds the same.
        pairs: of image names.
        overwrite: replace a text file that holds something else.

    Raises:
        ValueError: as :func:`format_pairs`.
        FileExistsError: a file with something else is there, or one that is no text.
        OSError: the file cannot be written, or the disk is full.
    """
    replace_text(path, format_pairs(pairs, path), overwrite=overwrite)


def format_pairs(pairs: Iterable[Pair], path: Path) -> str:
    """Return pairs in hloc's form, one on a line.

    Names with white space are written as they are, with a warning: :func:`read_pairs` resolves
    them, hloc does not.

    Args:
        pairs: of image names.
        path: where they go, for the warning.

    Raises:
        ValueError: a name is empty, holds a line break, or begins or ends with white space.
    """
    pairs = list(pairs)
    spaced: list[str] = []
    for name in dict.fromkeys(itertools.chain.from_iterable(pairs)):
        if not name or name != name.strip() or "\n" in name or "\r" in name:
            raise ValueError(f"image name {name!r} cannot stand in a pairs file; rename the image")
        if len(name.split()) > 1:
            spaced.append(name)
    if spaced:
        logger.warning(
            "%d image names hold spaces (%r): hloc cannot read %s", len(spaced), spaced[0], path
        )
    return "".join(f"{a} {b}\n" for a, b in pairs)


def unique_pairs(pairs: Iterable[Pair], names: Collection[str]) -> list[Pair]:
    """Return the pairs in their order, each once in whichever direction came first.

    Args:
        pairs: of image names; those of other Unicode forms come back as they are known.
        names: of the known images.

    Raises:
        ValueError: an unknown image (and the known one nearest to it), or one paired with itself.
    """
    known = names if isinstance(names, set | frozenset) else frozenset(names)
    seen: dict[frozenset[str], Pair] = {}
    for pair in pairs:
        a, b = (_require_known(name, known) for name in pair)
        if a == b:
            raise ValueError(f"image {a!r} is paired with itself; remove that pair")
        seen.setdefault(frozenset((a, b)), (a, b))
    return list(seen.values())


def _split_line(line: str, known: Collection[str]) -> Pair | None:
    """Return the pair that a line names, known or not; None for a line without one."""
    splits = [(line[: gap.start()], line[gap.end() :]) for gap in re.finditer(r"\s+", line)]
    found = [(find_name(a, known), find_name(b, known)) for a, b in splits]
    readings = [(a, b) for a, b in found if a is not None and b is not None]
    if len(readings) == 1:
        return readings[0]
    if readings:
        both = " or ".join(f"{a!r} + {b!r}" for a, b in readings)
        raise ValueError(f"can be read as {both}; rename an image")
    if not line or line.startswith("#"):
        return None
    half_known = [split for split, names in zip(splits, found, strict=True) if any(names)]
    if len(splits) == 1 or len(half_known) == 1:
        return half_known[0] if half_known else splits[0]
    raise ValueError(f"{line!r} does not name two known images with a space between")


def _require_known(name: str, known: Collection[str]) -> str:
    found = find_name(name, known)
    if found is None:
        raise ValueError(f"unknown image {name!r}{suggest(name, known)}")
    return found


def _require_unique(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise ValueError(f"image name {twice!r} occurs twice; every image needs its own")


def _natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts numbers in a name by their value."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
