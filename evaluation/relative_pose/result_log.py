"""Finished results, kept as JSON lines under a hash of all that they depend on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar


class Recordable(Protocol):
    """A result that JSON can hold."""

    def to_record(self) -> dict[str, Any]:
        """As plain values."""


R = TypeVar("R", bound=Recordable)


class ResultLog(Generic[R]):
    """A file of JSON lines that only grows; a line cut off by a kill is done again.

    Args:
        path: of the file; it need not be there.
        from_record: the inverse of the results' ``to_record``.
        key_name: of the key in a line.
    """

    def __init__(
        self, path: Path, from_record: Callable[[dict[str, Any]], R], key_name: str = "key"
    ) -> None:
        self._path = path
        self._key_name = key_name
        self._found: dict[str, R] = {}
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        self._is_whole = not text or text.endswith("\n")
        for line in text.splitlines():
            try:
                record = json.loads(line)
                self._found[record[key_name]] = from_record(record["result"])
            except (ValueError, KeyError, TypeError):
                continue

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def get(self, key: str) -> R:
        """The result under a key that is there."""
        return self._found[key]

    def add(self, key: str, result: R) -> None:
        """Keep a result, at once."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({self._key_name: key, "result": result.to_record()}, allow_nan=False)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(("" if self._is_whole else "\n") + line + "\n")
        self._is_whole = True
        self._found[key] = result
