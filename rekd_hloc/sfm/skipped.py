"""Photos that are left out, in a few lines: some by name, those like them by number."""

from collections.abc import Mapping
from pathlib import PurePath

from rekd_hloc.names import NUM_NAMED, one_line, printable


def shorten_skipped(skipped: Mapping[str, str], full_list: str) -> list[tuple[str, str]]:
    """Return names and reasons to show, in the order that they came in.

    Of many photos with one ending and one reason, the first few are named and the others counted.
    All is text of one line without control characters, whatever the names hold.

    Args:
        skipped: reasons by name, as in ``report.json``.
        full_list: words that say where all of them are named.
    """
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, reason in skipped.items():
        shown, text = printable(name), one_line(str(reason))
        kind = text.replace(shown, "").replace(one_line(name), "")
        own = text.removeprefix(f"{shown} is ")  # the name stands before it
        groups.setdefault((PurePath(name).suffix, kind), []).append((shown, own))
    lines = []
    for (suffix, _), photos in groups.items():
        is_long = len(photos) > NUM_NAMED + 1
        named = photos[:NUM_NAMED] if is_long else photos
        lines += named
        if is_long:
            others = f"and {len(photos) - NUM_NAMED} more {one_line(suffix)} files"
            lines.append((others, f"for the same reason; {full_list}"))
    return lines
