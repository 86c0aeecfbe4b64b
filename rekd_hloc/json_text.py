"""Reading JSON that others may have written: whatever it holds, a value or one line of error."""

import json
import stat
from pathlib import Path
from typing import Any

MAX_DEPTH = 64
"""Lists and mappings in one another; ours have six."""
MAX_BYTES = 256 << 20
"""Of a file; a report of a million pairs has a tenth of it."""


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: no JSON, or lists and mappings more than ``MAX_DEPTH`` deep.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"lists or mappings are more than {MAX_DEPTH} deep") from error
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for part in level for item in _items(part)]
        if not level:
            return value
    raise ValueError(f"lists or mappings are more than {MAX_DEPTH} deep")


def read_json(path: Path) -> Any:
    """Return the value in a JSON file in UTF-8.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no JSON, a huge or deep one, or a pipe or device, which is never opened; the
            message does not name the file.
    """
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise ValueError("is a device or a pipe")
    size = status.st_size
    if size > MAX_BYTES:
        raise ValueError(f"holds {size} bytes; at most {MAX_BYTES} are read")
    return parse_json(path.read_text(encoding="utf-8"))


def _items(value: Any) -> list[Any]:  # noqa: ANN401  (whatever JSON holds)
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
