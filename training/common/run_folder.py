"""The output folder of one training run: checkpoints, log, and how long the run has taken."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rekd_hloc.files import write_text
from training.common.checkpoint import code_version, load_checkpoint, save_checkpoint

LAST = "last.pt"
"""The checkpoint that a run goes on from."""


class RunFolder:
    """``last.pt``, ``best.pt``, ``config.json`` and ``log.jsonl`` of a run.

    Every checkpoint also holds ``best`` (the best score so far), ``seconds`` (of all sessions of
    the run), ``config`` and ``code_version``.

    Args:
        path: the run's output folder; made by ``begin``.
        config: all options as resolved, as JSON.
    """

    def __init__(self, path: Path, config: str) -> None:
        self.path = path
        self.best = -1.0
        self.seconds = 0.0
        self._config = config
        self._code_version = code_version()
        self._clock = time.perf_counter()

    @property
    def last(self) -> Path:
        """Path of the checkpoint that a run goes on from."""
        return self.path / LAST

    def resume(self) -> dict[str, Any] | None:
        """The state to go on from, None where the run is new.

        Raises:
            ValueError: ``last.pt`` is damaged.
        """
        if not self.last.exists():
            return None
        state = load_checkpoint(self.last)
        self.best, self.seconds = state["best"], state["seconds"]
        return state

    def begin(self, step: int) -> None:
        """Write the configuration, and drop from the log what lies behind ``step``."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "config.json", self._config + "\n")
        _drop_later_lines(self.path / "log.jsonl", step)
        self._clock = time.perf_counter()

    def record(
        self, step: int, figures: Mapping[str, Any], score: float, state: Mapping[str, Any]
    ) -> None:
        """A line of the log and the checkpoints; ``best.pt`` too if no score was higher."""
        self._count_seconds()
        line = {"step": step, "seconds": round(self.seconds, 1), **figures}
        with (self.path / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        is_best = score > self.best
        self.best = max(self.best, score)
        self.save(state)
        if is_best:
            save_checkpoint(self.path / "best.pt", self._whole(state))

    def save(self, state: Mapping[str, Any]) -> None:
        """Write ``last.pt``."""
        self._count_seconds()
        save_checkpoint(self.last, self._whole(state))

    def _whole(self, state: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **state,
            "best": self.best,
            "seconds": self.seconds,
            "config": json.loads(self._config),
            "code_version": self._code_version,
        }

    def _count_seconds(self) -> None:
        now = time.perf_counter()
        self.seconds, self._clock = self.seconds + now - self._clock, now


def _drop_later_lines(path: Path, step: int) -> None:
    """A kill between log and checkpoint leaves a line that will be written again."""
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    if len(kept) < len(lines):
        write_text(path, "".join(kept))
