"""What a command says of its work: warnings on stderr, all of it with -v, and in log files."""

import contextlib
import contextvars
import logging
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from rekd_hloc import __version__
from rekd_hloc.files import explain_os_error
from rekd_hloc.locks import RECORD_FOLDER
from rekd_hloc.names import one_line

LOG_NAME = "rekd-hloc.log"
"""Of the log file in the folder of a reconstruction."""
ROOT = logging.getLogger("rekd_hloc")
LINE = "%(asctime)s %(levelname)s %(message)s"

_arguments: contextvars.ContextVar[Sequence[str]] = contextvars.ContextVar("_arguments", default=())
"""Of the command that runs, for the first line of its log."""


@contextlib.contextmanager
def log_messages(arguments: Sequence[str]) -> Iterator[None]:
    """Show warnings of this package on stderr for the time of one command."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(levelname)s: %(message)s"))
    handler.setLevel(logging.WARNING)
    before, level = list(ROOT.handlers), ROOT.level
    ROOT.addHandler(handler)
    token = _arguments.set(tuple(arguments))
    try:
        yield
    finally:
        _arguments.reset(token)
        ROOT.setLevel(level)
        for added in [handler for handler in ROOT.handlers if handler not in before]:
            ROOT.removeHandler(added)
            added.close()


def show_details() -> None:
    """Show on stderr what is done from now on, beside the warnings."""
    for handler in ROOT.handlers:
        if type(handler) is logging.StreamHandler:
            handler.setLevel(logging.INFO)
    ROOT.setLevel(logging.INFO)


def append_log(path: Path, *, needs_folder: bool = True) -> None:
    """Append to a file, until the command ends, what is done.

    Args:
        path: the file; what it holds stays.
        needs_folder: wait until its folder is one of a run's, and do without where it cannot be
            written; else the folder is made, and that is an error.

    Raises:
        OSError: the file cannot be written.
    """
    handler = _LogFile(path, path.parent / RECORD_FOLDER if needs_folder else path.parent)
    if not needs_folder:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("a").close()
        except OSError as error:
            raise explain_os_error(error, path) from error
    handler.setFormatter(_OneLine(LINE))
    ROOT.addHandler(handler)
    ROOT.setLevel(logging.INFO)
    ROOT.info("rekd-hloc %s: %s", __version__, shlex.join(["rekd-hloc", *_arguments.get()]))


class _LogFile(logging.Handler):
    """Writes into a file once a folder is there; what cannot be written is let go."""

    def __init__(self, path: Path, awaited: Path) -> None:
        super().__init__()
        self._path = path
        self._awaited = awaited
        self._waiting: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, and those that waited for the folder."""
        self._waiting.append(self.format(record))
        if self._awaited.is_dir():
            with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in self._waiting))
            self._waiting.clear()


class _OneLine(logging.Formatter):
    """Shows each message on one line: names of files in it may hold any character."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        return one_line(super().formatMessage(record))
