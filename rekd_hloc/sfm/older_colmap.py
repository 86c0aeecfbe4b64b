"""What COLMAP 3.8 and older, as Debian and Ubuntu have it, need in a database of newer ones.

They read seven columns of a prior pose from each image, which newer releases have moved to another
table and do not look at. Empty columns of those names let both open one database.
"""

from pathlib import Path

from rekd_hloc.sfm.database_record import change_database

PRIOR_COLUMNS = tuple(f"prior_{part}" for part in ("qw", "qx", "qy", "qz", "tx", "ty", "tz"))


def add_prior_columns(database_path: Path) -> None:
    """Add the empty columns to a database that no program has open.

    Raises:
        OSError: it cannot be written, or the disk is full.
    """
    with change_database(database_path) as database:
        known = {row[1] for row in database.execute("PRAGMA table_info(images)")}
        for name in PRIOR_COLUMNS:
            if name not in known:
                database.execute(f"ALTER TABLE images ADD COLUMN {name} REAL")
