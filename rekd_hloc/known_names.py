"""Names that users give, looked up among those that are known.

A letter like é is one code point to most systems and two, e and an accent, to others. Both are one
name here, as long as one image alone has it.
"""

import difflib
import functools
import unicodedata
from collections.abc import Collection


def find_name(name: str, known: Collection[str]) -> str | None:
    """Return the known name that is meant: the same, or the only one of the same letters."""
    if name in known:
        return name
    if name.isascii():
        return None
    names = known if isinstance(known, frozenset) else frozenset(known)
    same = _by_letters(names).get(unicodedata.normalize("NFC", name), ())
    return same[0] if len(same) == 1 else None


def suggest(name: str, known: Collection[str]) -> str:
    """Return the end of an error about an unknown name: the known name that is nearest to it.

    Names that may look the same are shown with escapes beside.
    """
    near = difflib.get_close_matches(name, known, n=1)
    if not near:
        return f"; there are {len(known)} known images, for example {min(known)!r}" if known else ""
    if name.isascii() and near[0].isascii():
        return f"; did you mean {near[0]!r}?"
    return f"; did you mean {near[0]!r}? By code points {ascii(near[0])}, not {ascii(name)}"


@functools.lru_cache(maxsize=4)
def _by_letters(names: frozenset[str]) -> dict[str, list[str]]:
    """Names by their letters, for many look-ups among the same names."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        found.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    return found
