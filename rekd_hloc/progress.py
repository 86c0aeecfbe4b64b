"""Progress of long work: a bar in a terminal, and a line every ten seconds where there is none."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

PERIOD_S = 10.0
"""Between two lines, which a log file or a batch system's output keeps."""


class ProgressLines(tqdm):
    """Counts as a bar does, and says so in whole lines; what is quick says nothing."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options |= {"mininterval": PERIOD_S, "maxinterval": PERIOD_S, "delay": PERIOD_S}
        options["miniters"] = 1  # else a thread of tqdm repeats what an earlier line said
        super().__init__(*arguments, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write the count as a line."""
        unit = str(self.unit).strip()
        names = "" if unit == "it" else f" {unit.removesuffix('s')}s"
        of_all = f" of {self.total}{names} ({self.n / self.total:.0%})" if self.total else names
        seconds = self.format_dict["elapsed"]
        self.fp.write(f"{self.desc or 'progress'}: {self.n}{of_all}, {seconds:.0f} s\n")
        self.fp.flush()

    def close(self) -> None:
        """End without the line break that a bar needs."""
        self.leave = False
        super().close()

    def clear(self, nolock: bool = False) -> None:
        """Leave the lines that are written."""


def progress_bar(
    iterable: Iterable[Any] | None = None, label: str = "", *, shown: bool, **options: Any
) -> Any:
    """Return a ``tqdm`` bar over something, or lines where stderr is no terminal.

    Args:
        iterable: what is counted; None where ``update`` counts.
        label: what is done.
        shown: whether anything is said.
        **options: of ``tqdm``.
    """
    kind = tqdm if sys.stderr.isatty() else ProgressLines
    return kind(iterable, label, disable=not shown, **options)
