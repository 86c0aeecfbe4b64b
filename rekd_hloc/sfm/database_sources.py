"""What the database of a run was made from, as ``database.json`` records it."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rekd_hloc.json_text import read_json
from rekd_hloc.renamed_options import translate_config
from rekd_hloc.sfm.output_folder import MADE
from rekd_hloc.types import Pair

MAPPED = "mapped"
"""Key of the record: how the database was mapped, once the model is there."""
NS_IN_S = 1_000_000_000


def read_sources(path: Path) -> dict[str, Any]:
    """Return a record in today's names; empty if there is none."""
    try:
        content = read_json(path)
    except (FileNotFoundError, ValueError):
        return {}
    known = translate_config(content) if isinstance(content, dict) else {}
    return {key: value for key, value in known.items() if key not in (MADE, MAPPED)}


def file_stamp(path: Path) -> list[Any]:
    """Return a file's place, size in bytes and time in nanoseconds."""
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def list_digest(values: Sequence[str] | Sequence[Pair]) -> str:
    """Digest names of images or pairs, in their order."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def are_sources(
    record: Path, files: Sequence[Path], names: Sequence[str], pairs: Sequence[Pair]
) -> bool:
    """Say whether a database was made of these, wherever the files were then.

    Disks that are only read have times in whole seconds.
    """
    stored = read_sources(record)
    known = (stored.get("names"), stored.get("pairs"))
    try:
        stamps = [(size, time_ns // NS_IN_S) for _, size, time_ns in stored["files"]]
    except (KeyError, TypeError, ValueError):
        return False
    now = [(size, time_ns // NS_IN_S) for _, size, time_ns in map(file_stamp, files)]
    return known == (list_digest(names), list_digest(pairs)) and stamps == now
