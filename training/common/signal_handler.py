"""Stopping a run from outside without losing the steps since the last checkpoint."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE_S = 2.0
"""Signals that follow the first within this time are the same request: torchrun passes Ctrl-C on to
processes that the terminal has told already."""


class SignalHandler:
    """While open, Ctrl-C and SIGTERM set ``requested`` instead of ending the process.

    A later second signal interrupts at once. Outside the main thread, which alone may handle
    signals, nothing is changed.
    """

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        """Take over the signals."""
        if threading.current_thread() is threading.main_thread():
            self._before = {kind: signal.signal(kind, self._receive) for kind in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back to their earlier handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.requested and now - self._since > PATIENCE_S:
            raise KeyboardInterrupt
        if not self.requested:
            self.requested, self._since = True, now
