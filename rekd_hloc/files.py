"""Writing files and folders: whole or not at all, with errors that say what to do.

A writer fills a scratch file beside the real one and renames it. Whoever is killed in between
leaves the old file as it was, and at most a ``.rekd.tmp`` that the next writer replaces.
"""

import contextlib
import errno
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FULL_DISK = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""Error numbers that mean there is no room."""
SCRATCH_SUFFIX, OLD_SUFFIX = ".rekd.tmp", ".rekd.old"
"""Of names that no file of a user has."""


def beside(path: Path, suffix: str) -> Path:
    """Name the file of that suffix next to the real one, also if ``path`` is a symbolic link."""
    target = path.resolve()
    return target.with_name(target.name + suffix)


@contextlib.contextmanager
def atomic_write(
    path: Path, *, kept_in: Path | None = None, durable: bool = False
) -> Iterator[Path]:
    """Replace a file by the one that the block writes to the path it is given.

    The file's folder is made. If the block fails, the old file stays and the scratch file goes.

    Args:
        path: the file to replace or to make.
        kept_in: what has all that was written before, for the error's text.
        durable: force content and name to the disk, so that a power cut leaves one file or the
            other.

    Raises:
        OSError: from the block or from the renaming, as :func:`explain_os_error` words it.
    """
    scratch = beside(path, SCRATCH_SUFFIX)
    try:
        scratch.parent.mkdir(parents=True, exist_ok=True)
        yield scratch
        if durable:
            sync(scratch)
        scratch.replace(path.resolve())
        if durable:
            sync(scratch.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise explain_os_error(error, path, kept_in) from error
        raise


def write_bytes(path: Path, data: bytes, *, kept_in: Path | None = None) -> None:
    """Write a file whole or not at all, making its folder.

    Raises:
        OSError: the file cannot be written, or the disk is full.
    """
    with atomic_write(path, kept_in=kept_in) as scratch:
        scratch.write_bytes(data)


def write_text(path: Path, text: str, *, kept_in: Path | None = None) -> None:
    """Write a text file in UTF-8 with line feeds, whole or not at all, making its folder.

    Raises:
        OSError: the file cannot be written, or the disk is full.
    """
    write_bytes(path, text.encode(), kept_in=kept_in)


def write_json(path: Path, record: Mapping[str, Any], *, kept_in: Path | None = None) -> None:
    """Write a record as JSON, whole or not at all; numbers that JSON lacks become null.

    Raises:
        OSError: the file cannot be written, or the disk is full.
    """
    write_text(path, encode_json(record), kept_in=kept_in)


def encode_json(record: Mapping[str, Any]) -> str:
    """Return a record as strict JSON text; numbers that JSON lacks become null."""
    return json.dumps(_without_infinities(record), indent=1, allow_nan=False) + "\n"


def replace_folder(path: Path, scratch: Path) -> None:
    """Put a finished folder in the place of another, which is deleted once the new one is there.

    Args:
        path: the folder to replace or to make.
        scratch: the finished one, on the same file system.

    Raises:
        OSError: a folder cannot be renamed or deleted.
    """
    old = beside(path, OLD_SUFFIX)
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    try:
        scratch.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def explain_os_error(error: OSError, path: Path, kept_in: Path | None = None) -> OSError:
    """Return the same error in words that name the file and the remedy.

    Args:
        error: from the system.
        path: what could not be written.
        kept_in: the file that has all that was written before, if there is one.
    """
    if error.errno in FULL_DISK:
        reason, remedy = f"no space left for {path}", "free some space"
    else:
        reason = f"cannot write {path}: {error.strerror or error}"
        remedy = "make it writable" if kept_in else "choose another output"
    if kept_in:
        remedy += f"; all that was written before is in {kept_in}: the same command goes on"
    return OSError(error.errno or errno.EIO, f"{reason}; {remedy}")


def find_obstacle(path: Path) -> OSError | None:
    """Say why a file that is there cannot be replaced; None if it can be, or is not there."""
    for place in (path, path.resolve().parent) if path.exists() else ():
        if not os.access(place, os.W_OK):
            return explain_os_error(OSError(errno.EACCES, os.strerror(errno.EACCES)), path)
    return None


def sync(path: Path) -> None:
    """Force a file's content, or a folder's names, to the disk."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _without_infinities(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_infinities(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
