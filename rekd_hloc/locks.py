"""One writer at a time: locks between processes on a file, or on all that a run writes.

They are the kernel's own (``flock``), which releases them however a process ends. Windows and some
network drives have none; there nothing is locked.
"""

import contextlib
import logging
import os
import sys
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from rekd_hloc.files import explain_os_error

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

RECORD_FOLDER = ".rekd_hloc"
"""In a folder that this program writes: its lock, the list of what it made, and its scratch."""
LOCK_NAME = "lock"

_held: ContextVar[frozenset[tuple[int, Path]]] = ContextVar("_held", default=frozenset())
"""Process and folder of the locks that the running thread has: what it calls needs no other."""
_locked: "weakref.WeakSet[BinaryIO]" = weakref.WeakSet()
"""Files that this process has locked."""


def lock_file(path: Path, *, about: Path | None = None) -> BinaryIO:
    """Open a file to append, making it if there is none, and lock it until it is closed.

    Args:
        path: the file; its folder exists. A process that deletes it does so while it has the lock,
            so the file that is locked here is the one that the path names.
        about: what an error names; ``path`` when None.

    Raises:
        OSError: the file cannot be written, or another process has the lock.
    """
    while True:
        try:
            file = path.open("a+b", buffering=0)
        except OSError as error:
            raise explain_os_error(error, about or path) from error
        try:
            _lock(file, about or path, shared=False)
            if is_named(path, file):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def is_named(path: Path, file: BinaryIO) -> bool:
    """Say whether a path names the file that is open."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Keep every other writer out of a folder, which is made; within a block, blocks may follow.

    Raises:
        OSError: another process writes there, or the folder cannot be written.
    """
    here = (os.getpid(), folder.resolve())
    if here in _held.get():
        yield
        return
    place = folder / RECORD_FOLDER
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain_os_error(error, folder) from error
    with lock_file(place / LOCK_NAME, about=folder):
        token = _held.set(_held.get() | {here})
        try:
            yield
        finally:
            _held.reset(token)


@contextlib.contextmanager
def hold_file(path: Path) -> Iterator[None]:
    """Keep other such writers off a file that another library writes, and runs off its folder.

    Raises:
        OSError: another process writes it, or its folder cannot be written.
    """
    with share_folder(path.parent):
        if sys.platform == "win32":
            yield
            return
        name = path.with_name(f".{path.name}.rekd_hloc.lock")
        with lock_file(name, about=path):
            try:
                yield
            finally:
                name.unlink(missing_ok=True)


@contextlib.contextmanager
def share_folder(folder: Path) -> Iterator[None]:
    """Write a single file of a folder: with other such writers, but not during a whole run.

    Raises:
        OSError: another process holds the folder.
    """
    lock = folder / RECORD_FOLDER / LOCK_NAME
    if (os.getpid(), folder.resolve()) in _held.get() or not lock.is_file():
        yield
        return
    with lock.open("rb") as file:
        _lock(file, folder, shared=True)
        yield


def _lock(file: BinaryIO, about: Path, *, shared: bool) -> None:
    if sys.platform != "win32":
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            _locked.add(file)
        except BlockingIOError as error:
            raise BlockingIOError(f"{about} is being written by another process") from error
        except OSError:
            logger.debug("no file locks on the file system of %s", about)


def _forget_locks() -> None:
    """Close, in a new worker, what it shares with its parent: it may outlive a parent killed."""
    for file in tuple(_locked):
        with contextlib.suppress(OSError):
            file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)
