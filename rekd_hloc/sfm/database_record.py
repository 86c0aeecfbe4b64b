"""Whose a COLMAP database is: ours as long as it holds what we wrote, and nothing else.

Our databases have one more table, which COLMAP never reads, with a digest of their content. Whoever
verifies, matches or calibrates in such a database makes it a work of their own.
"""

import contextlib
import errno
import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from rekd_hloc.files import explain_os_error
from rekd_hloc.ownership import EMPTY, REMEDY, SQLITE, kind_of, refuse_foreign, refuse_kind

TABLE = "rekd_hloc"
BEING_WRITTEN = "being written"
"""In place of the digest while this program changes the database."""
SUFFIXES = ("-wal", "-shm", "-journal")


RECONSTRUCTION = "a reconstruction"
"""Whose a database is that a run makes and verifies."""


def refuse_foreign_database(
    path: Path, *, owner: str, overwrite: bool, is_known: bool = False
) -> None:
    """Refuse to replace a database that someone else made, or went on with.

    Args:
        path: the database to be written.
        owner: what it is made from; one that we made from something else stays too.
        overwrite: the user has asked for it.
        is_known: another record says that we made it; for databases without the table.

    Raises:
        FileExistsError: it must stay; the message says why and what to do.
    """
    refuse_kind(path, SQLITE)
    if overwrite or kind_of(path) in (None, EMPTY):
        return
    stored, stored_owner = _read_record(path)
    if not stored:
        refuse_foreign(path, SQLITE, overwrite=False, is_ours=is_known)
    elif stored_owner != owner:
        raise FileExistsError(f"{path} is the database of {stored_owner}; {REMEDY}")
    elif stored not in (BEING_WRITTEN, digest(path)):
        raise FileExistsError(f"{path} was changed since rekd-hloc made it; {REMEDY}")


@contextlib.contextmanager
def write_database(path: Path, *, owner: str) -> Iterator[None]:
    """Change a database within a block; what it holds at the end is on record as ours.

    After a kill within the block it counts as ours too.

    Raises:
        OSError: it cannot be written.
    """
    _write_record(path, BEING_WRITTEN, owner)
    yield
    _write_record(path, digest(path), owner)


@contextlib.contextmanager
def change_database(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a database for statements of one transaction.

    Raises:
        OSError: it cannot be written, or the disk is full.
    """
    try:
        with contextlib.closing(_connect(path)) as database, database:
            yield database
    except sqlite3.Error as error:
        number = errno.ENOSPC if "full" in str(error) else errno.EIO
        raise explain_os_error(OSError(number, str(error)), path, path.parent) from error


def replace_database(path: Path, scratch: Path) -> None:
    """Put a finished database in the place of another, which stays until then.

    What COLMAP left beside the old one goes into it first: SQLite would take it for the new one's.

    Raises:
        OSError: the database cannot be replaced.
    """
    if path.is_file() and any(path.with_name(path.name + suffix).exists() for suffix in SUFFIXES):
        with contextlib.suppress(sqlite3.Error), contextlib.closing(_connect(path)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for suffix in SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    scratch.replace(path)


def digest(path: Path) -> str:
    """Digest what a database holds: all of cameras and images, and of other tables the sizes.

    Raises:
        ValueError: it is damaged.
    """
    content = hashlib.sha256()
    try:
        with contextlib.closing(_connect_to_read(path)) as database:
            tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            for (table,) in sorted(tables.fetchall()):
                if table == TABLE or table.startswith("sqlite_"):
                    continue
                columns = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
                content.update(repr((table, columns)).encode())
                for row in database.execute(_summary(table, columns)):
                    content.update(repr(row).encode())
    except sqlite3.Error as error:
        raise ValueError(f"{path} is no readable database: {error}") from error
    return content.hexdigest()[:32]


def _summary(table: str, columns: list[str]) -> str:
    if table in ("cameras", "images"):
        return f'SELECT * FROM "{table}" ORDER BY 1'
    names = [f'"{name}"' for name in columns]
    sizes = [f"total(length({name}))" for name in names]
    numbers = [f"total(CASE typeof({name}) WHEN 'blob' THEN 0 ELSE {name} END)" for name in names]
    return f'SELECT count(*), {", ".join(sizes + numbers)} FROM "{table}"'


def _read_record(path: Path) -> tuple[str, str]:
    """Return digest and owner on record; empty where nothing is, as in databases of others."""
    try:
        with contextlib.closing(_connect_to_read(path)) as database:
            row = database.execute(f"SELECT content, owner FROM {TABLE}").fetchone()
    except sqlite3.Error:
        return "", ""
    return (str(row[0]), str(row[1])) if row else ("", "")


def _write_record(path: Path, content: str, owner: str) -> None:
    with change_database(path) as database:
        database.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} (content TEXT, owner TEXT)")
        database.execute(f"DELETE FROM {TABLE}")
        database.execute(f"INSERT INTO {TABLE} VALUES (?, ?)", (content, owner))


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=10.0)


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """Open a database, leaving no file beside it where another program has none open."""
    ahead = path.resolve().with_name(path.resolve().name + "-wal")
    is_quiet = not (ahead.exists() and ahead.stat().st_size)
    how = "immutable=1" if is_quiet else "mode=ro"
    return sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True, timeout=10.0)
