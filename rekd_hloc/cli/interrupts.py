"""Ctrl-C and SIGTERM: one line, what is finished is kept, and a second one ends it at once.

Python hands a signal to the main thread, between two of its instructions. A library that computes
for minutes, as COLMAP's mapper does, would keep it waiting: a watching thread then ends the process
itself. That loses nothing, since every file is written so that a process may be killed.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from rekd_hloc.cli.command_words import split_words

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE_S = 3.0
"""After so long in a library the process is ended from outside of it."""
HANDLED = b"\0"
"""What the main thread tells the watching one; the numbers of signals begin at 1."""
STATUS = 128
"""Added to a signal's number: the exit status that shells give, 130 for Ctrl-C."""
RESUMED = ("extract", "match", "refine", "reconstruct", "localize", "demo")
"""Commands that go on with what is there."""
STARTS_ANEW = ("extract", "match", "refine")
"""Those of them that start anew with ``--overwrite``."""


class InterruptedBySignal(BaseException):
    """Raised in the main thread; no ``KeyboardInterrupt``, which typer ends without a word."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_interruptibly(work: Callable[[], int], advice: str) -> int:
    """Do some work, which Ctrl-C and SIGTERM end with one line on stderr.

    Args:
        work: returns an exit status.
        advice: how to go on, for the line.

    Returns:
        The work's status; if a signal ended it, 130 or 143.
    """
    line = f"rekd-hloc: interrupted; {advice}\n"
    try:
        with _handlers(line):
            return work()
    except InterruptedBySignal as end:
        _say(line)
        return STATUS + end.number
    except KeyboardInterrupt:  # from a library that has a handler of its own
        _say(line)
        return STATUS + signal.SIGINT


def how_to_go_on(arguments: Sequence[str]) -> str:
    """Return what to do after an interruption of a command line."""
    _, words = split_words(arguments)
    command = next(iter(words), "")
    if command not in RESUMED:
        return "no file is left half-written; run it again"
    if command in STARTS_ANEW and "--overwrite" in arguments:
        return "the same command without --overwrite goes on from here"
    return "the same command goes on from here"


@contextlib.contextmanager
def _handlers(line: str) -> Iterator[None]:
    """Take over those signals that are not ignored; only the main thread may."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    listening, telling = socket.socketpair()
    telling.setblocking(False)

    def receive(number: int, frame: FrameType | None) -> None:
        for kind in SIGNALS:
            signal.signal(kind, signal.SIG_DFL)  # a second one ends the process at once
        telling.send(HANDLED)
        raise InterruptedBySignal(number)

    before = {kind: signal.getsignal(kind) for kind in SIGNALS}
    taken = [kind for kind in SIGNALS if before[kind] is not signal.SIG_IGN]
    told_before = signal.set_wakeup_fd(telling.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(listening, line), daemon=True)
    watcher.start()
    try:
        for kind in taken:
            signal.signal(kind, receive)
        yield
    finally:
        for kind in taken:
            signal.signal(kind, before[kind] or signal.SIG_DFL)
        signal.set_wakeup_fd(told_before)
        telling.close()  # ends the thread
        watcher.join(PATIENCE_S)
        listening.close()


def _watch(listening: socket.socket, line: str) -> None:
    """End the process where a signal has arrived and the main thread does not come to handle it."""
    heard = listening.recv(1)
    if not heard:
        return
    listening.settimeout(PATIENCE_S)
    with contextlib.suppress(TimeoutError):
        if listening.recv(1) in (HANDLED, b""):  # else it is a second signal
            return
    _say(line)
    os._exit(STATUS + heard[0])


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed
        sys.stderr.write(line)
        sys.stderr.flush()
