"""Issues of a check, folded so that a thousand images with one flaw make one line."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from rekd_hloc.names import one_line

Level = Literal["error", "warning", "info"]
LEVELS: tuple[Level, ...] = ("error", "warning", "info")
"""An error stops or spoils the run, a warning makes it worse, an info only tells."""


@dataclass(frozen=True)
class ValidationIssue:
    """Hold one flaw, or one fact.

    Attributes:
        level: how bad it is.
        place: file, and the first image, pair or line where it shows.
        message: what is wrong, and what would do.
    """

    level: Level
    place: str
    message: str


@dataclass
class ValidationIssues:
    """Collects issues; those of one kind in one file become one."""

    _first: dict[tuple[Level, str, str], tuple[str, str]] = field(default_factory=dict)
    _count: Counter[tuple[Level, str, str]] = field(default_factory=Counter)

    def add(self, level: Level, file: str, kind: str, item: str, message: str) -> None:
        """Note a flaw.

        Args:
            level: how bad it is.
            file: the file's name.
            kind: flaws of one kind are shown once, with their number.
            item: the image, pair or line; empty for the file as a whole.
            message: about this item.
        """
        key = (level, file, kind)
        self._first.setdefault(key, (item, message))
        self._count[key] += 1

    def fold(self) -> list[ValidationIssue]:
        """Return one issue of each kind, the worst first, else in the order they came."""
        folded = []
        for (level, file, kind), (item, message) in self._first.items():
            more = self._count[level, file, kind] - 1
            place = f"{file}: {item}" if item else file
            folded.append(
                ValidationIssue(level, place, message + (f" (and {more} more)" if more else ""))
            )
        return sorted(folded, key=lambda issue: LEVELS.index(issue.level))


def format_issues(issues: list[ValidationIssue]) -> str:
    """Return a table for the terminal, and a last line with the totals."""
    width = max((len(issue.place) for issue in issues), default=0)
    lines = [one_line(f"{f.level:<7}  {f.place:<{width}}  {f.message}") for f in issues]
    count = Counter(issue.level for issue in issues)
    totals = [
        f"{count[level]} {level}{'' if count[level] == 1 or level == 'info' else 's'}"
        for level in LEVELS
        if count[level]
    ]
    return "\n".join([*lines, ", ".join(totals) or "nothing to report"])
