"""Names of files as a person reads them: on one line, whatever characters they have, and the first
few where there are many."""

import os
import unicodedata
from collections.abc import Collection
from itertools import islice
from pathlib import Path

ESCAPED = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Unicode categories that a message must not show as they are: control characters, among them line
breaks and the escape codes of terminals; bytes that are no Unicode; separators of lines."""


NUM_NAMED = 3
"""Names that a message lists one by one, unless it says otherwise."""


def printable(name: str | Path) -> str:
    """Return a name for a message: itself, or quoted with escapes where it would break the line.

    Text and HTML of it can always be encoded, also where a file's name is not UTF-8.
    """
    text = os.fspath(name)
    return repr(text) if any(unicodedata.category(c) in ESCAPED for c in text) else text


def list_names(names: Collection[str], most: int = NUM_NAMED) -> str:
    """Return names with commas between, and of more than ``most`` how many more there are."""
    shown = ", ".join(printable(name) for name in islice(names, most))
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number before its noun: ``1 image``, ``2 images``, or ``many`` if that is given."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def one_line(message: str) -> str:
    """Return a message with such characters escaped: one line that any terminal can show."""
    if not any(unicodedata.category(c) in ESCAPED for c in message):
        return message
    return "".join(repr(c)[1:-1] if unicodedata.category(c) in ESCAPED else c for c in message)
