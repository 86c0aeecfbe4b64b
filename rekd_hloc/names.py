"""Names of files as a person reads them: on one line, whatever characters they have."""

import os
import unicodedata
from pathlib import Path

ESCAPED = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Unicode categories that a message must not show as they are: control characters, among them line
breaks and the escape codes of terminals; bytes that are no Unicode; separators of lines."""


def printable(name: str | Path) -> str:
    """Return a name for a message: itself, or quoted with escapes where it would break the line.

    Text and HTML of it can always be encoded, also where a file's name is not UTF-8.
    """
    text = os.fspath(name)
    return repr(text) if any(unicodedata.category(c) in ESCAPED for c in text) else text


def one_line(message: str) -> str:
    """Return a message with such characters escaped: one line that any terminal can show."""
    if not any(unicodedata.category(c) in ESCAPED for c in message):
        return message
    return "".join(repr(c)[1:-1] if unicodedata.category(c) in ESCAPED else c for c in message)
