"""Pairs files of hloc's form: one pair on a line, two names with white space between.

hloc cannot read names that hold white space themselves; here a line is split where both parts are
names of known images.
"""

import itertools
import logging
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from rekd_hloc.known_names import find_name, suggest
from rekd_hloc.ownership import replace_text
from rekd_hloc.types import Pair

logger = logging.getLogger(__name__)


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
