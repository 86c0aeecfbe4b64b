"""Calls in a second process, so that a reader that hangs or dies is an outcome and not the end.

What comes from outside is read there; :func:`call` says what became of it, and :meth:`Outcome.tidy`
whether that is what a user may meet: a value, or one line that names the file.
"""

import atexit
import importlib
import os
import pickle
import select
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TIME_LIMIT_S = 20.0
"""No file of these tests takes a tenth of it."""
MEMORY_LIMIT_BYTES = 12 << 30
"""Of addresses: what a damaged header asks for beyond it fails at once instead of filling the
machine."""
HEAD = struct.Struct("<Q")
EXPECTED = (ValueError, OSError)
"""What the package raises for a file that cannot be used; FileNotFoundError is an OSError."""


@dataclass(frozen=True)
class Outcome:
    """What became of a call.

    Attributes:
        kind: ``value``, ``error``, ``hang`` or ``death``.
        value: what the call returned.
        error: name of the exception's class, or how the process ended.
        message: of the exception.
        is_expected: whether the exception is one of ``EXPECTED``.
    """

    kind: str
    value: Any = None
    error: str = ""
    message: str = ""
    is_expected: bool = False

    def flaw(self, *names: str) -> str | None:
        """Why a user may not meet this outcome of reading a file with one of these names."""
        if self.kind == "value":
            return None
        if self.kind in ("hang", "death"):
            return f"{self.kind}: {self.error}"
        if not self.is_expected:
            return f"{self.error}: {self.message}"
        if len(self.message.splitlines()) != 1:
            return f"not one line: {self.message!r}"
        if not any(name in self.message for name in names):
            return f"names none of {names}: {self.message!r}"
        return None


class Worker:
    """A process that calls functions by name; it is started again after a hang or a death."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, function: str, *args: Any, time_limit_s: float = TIME_LIMIT_S) -> Outcome:
        """Call ``module:function`` there.

        Args:
            function: importable from the repository's root.
            args: anything that pickle takes.
            time_limit_s: after which the process is killed.
        """
        process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        _send(process.stdin.fileno(), (function, args))
        reply = _receive(process.stdout.fileno(), time_limit_s)
        if isinstance(reply, Outcome):
            return reply
        self.stop()
        if reply == "time":
            return Outcome("hang", error=f"no answer in {time_limit_s:.0f} s")
        return Outcome("death", error=f"the process ended with {process.returncode}")

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.isolated"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            assert self._process.stdout is not None
            _receive(self._process.stdout.fileno(), 60.0)  # it has imported what takes long
        return self._process


WORKER = Worker()
call = WORKER.call
"""Of the one worker that all tests of a run share."""
atexit.register(WORKER.stop)


def _send(handle: int, message: Any) -> None:
    data = pickle.dumps(message)
    left = memoryview(HEAD.pack(len(data)) + data)
    while left:
        left = left[os.write(handle, left) :]


def _receive(handle: int, time_limit_s: float) -> Any:
    """The message; ``time`` if none comes, ``end`` if the other side is gone."""
    data = b""
    size = HEAD.size
    while len(data) < size:
        if not select.select([handle], [], [], time_limit_s)[0]:
            return "time"
        part = os.read(handle, size - len(data))
        if not part:
            return "end"
        data += part
        if size == HEAD.size and len(data) == size:
            size += HEAD.unpack(data)[0]
    return pickle.loads(data[HEAD.size :])


def _answer(function: str, args: tuple[Any, ...]) -> Outcome:
    module, _, name = function.partition(":")
    target = getattr(importlib.import_module(module), name)
    try:
        return Outcome("value", target(*args))
    except Exception as error:
        return Outcome(
            "error",
            error=type(error).__name__,
            message=str(error),
            is_expected=isinstance(error, EXPECTED),
        )


def _serve() -> None:
    import resource

    import rekd_hloc.sfm.extraction

    assert rekd_hloc.sfm.extraction
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, hard))
    replies, requests = os.dup(1), os.dup(0)
    os.dup2(2, 1)  # what a function prints is no reply
    _send(replies, Outcome("value", "ready"))
    while isinstance(request := _receive(requests, 3600.0), tuple):
        _send(replies, _answer(*request))


if __name__ == "__main__":
    # the classes of messages are those of the imported module, not of this program
    importlib.import_module("tests.isolated")._serve()
