"""The folder that a reconstruction writes: held by one run, and nothing of others in it replaced.

``.rekd_hloc`` in it holds the lock, the record of what was made, and models that are not finished.
A finished model takes the place of the old one, which stays until then.
"""

import contextlib
import logging
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from rekd_hloc.files import encode_json
from rekd_hloc.json_text import read_json
from rekd_hloc.locks import RECORD_FOLDER, hold_folder
from rekd_hloc.ownership import FOLDER, TEXT, MadeFiles
from rekd_hloc.sfm.database_record import RECONSTRUCTION, refuse_foreign_database
from rekd_hloc.types import Pair

logger = logging.getLogger(__name__)

FEATURES, MATCHES, REFINED_FEATURES = "features.h5", "matches.h5", "features-refined.h5"
DATABASE, DATABASE_RECORD = "database.db", "database.json"
MODEL, PAIRS, REPORT, PAGE = "sparse", "pairs.txt", "report.json", "report.html"
PREVIOUS = "sparse.previous"
KINDS = {MODEL: FOLDER, PAIRS: TEXT, REPORT: TEXT, DATABASE_RECORD: TEXT, PAGE: TEXT}
"""What a run makes beside HDF5 files and the database, which tell themselves whose they are."""
NAMES = (DATABASE, MODEL, PAIRS, REPORT, DATABASE_RECORD)
"""What a run always writes."""
MADE = "made"
"""Key of ``database.json`` that folders of version 0.1, which have no record, lack."""
RECORD_KEYS = frozenset(("camera_model", "seed", "files", "names", "pairs"))
"""Keys that it has in every version."""


class OutputFolder:
    """What a run makes in its folder, and what it may replace there.

    Attributes:
        path: the folder.
        made: the record of what was made there.
        overwrite: the user allows to replace what others made.
    """

    def __init__(self, path: Path, *, overwrite: bool = False, pairs: Sequence[Pair] = ()) -> None:
        """Read the record; nothing is written.

        A ``pairs.txt`` with just these ``pairs`` counts as ours, whoever made it.
        """
        self.path = path
        self._pairs = "".join(f"{a} {b}\n" for a, b in pairs).encode("utf-8", "surrogateescape")
        self.made = MadeFiles(path)
        self.overwrite = overwrite
        is_recorded = not self.made.names().isdisjoint(KINDS)
        is_of_first = _is_record(path / DATABASE_RECORD, of_first_version=True)
        self._is_old = is_of_first and not is_recorded

    @classmethod
    @contextlib.contextmanager
    def hold(
        cls,
        path: Path,
        *,
        names: Collection[str] = NAMES,
        overwrite: bool = False,
        pairs: Sequence[Pair] = (),
    ) -> Iterator[Self]:
        """Make the folder, and keep other processes out of it for the time of a block.

        Args:
            path: the folder.
            names: of ``NAMES`` and ``report.html``, those that the block may write.
            overwrite: replace what others made.
            pairs: a ``pairs.txt`` with just these counts as ours, as one of the command ``pairs``.

        Raises:
            FileExistsError: something that is to be replaced was made by someone else.
            OSError: another process is writing the folder, or it cannot be written.
        """
        cls(path, overwrite=overwrite, pairs=pairs).refuse_foreign(names)  # before any writing
        with hold_folder(path):
            folder = cls(path, overwrite=overwrite, pairs=pairs)
            folder.refuse_foreign(names)
            folder._recover()
            yield folder

    def refuse_foreign(self, names: Collection[str] = NAMES) -> None:
        """Refuse to replace what someone else made or changed, before anything is written.

        Raises:
            FileExistsError: names the first such thing and the remedy.
        """
        if not self.path.is_dir() and self.path.exists():
            raise FileExistsError(f"output {self.path} is a file; name a folder")
        for name in names:
            if name == DATABASE:
                self._refuse_foreign_database(overwrite=self.overwrite)
                continue
            allowed = self.overwrite or self._is_old
            if name == DATABASE_RECORD:  # of which users change nothing
                allowed = allowed or name in self.made.names() or _is_record(self.path / name)
            allowed = allowed or (name == PAIRS and self._has_equal_pairs())
            self.made.refuse_foreign(name, KINDS[name], overwrite=allowed)

    def owns_database(self) -> bool:
        """Say whether the database is as a run left it."""
        try:
            self._refuse_foreign_database(overwrite=False)
        except FileExistsError:
            return False
        return True

    def write_text(self, name: str, text: str) -> None:
        """Write a file whole or not at all, and record it.

        Raises:
            OSError: it cannot be written, or the disk is full.
        """
        self.made.write(name, text.encode())

    def write_json(self, name: str, record: Mapping[str, Any]) -> None:
        """Write a record as JSON, as :meth:`write_text` does."""
        self.write_text(name, encode_json(record))

    def remove(self, name: str) -> None:
        """Delete a file that a run made, or that the user allows to replace."""
        if self.overwrite or name in self.made.names():
            (self.path / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give an empty folder for models that are not finished; it is deleted in the end."""
        place = self._private / "models"
        shutil.rmtree(place, ignore_errors=True)
        try:
            place.mkdir(parents=True)
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def replace_model(self, models: Path) -> str | None:
        """Put finished models in the place of the old ones.

        Args:
            models: folder of them, in :meth:`scratch`.

        Returns:
            Where old ones that others made or changed are now; None if there were none.

        Raises:
            OSError: a folder cannot be renamed.
        """
        target, old = self.path / MODEL, self._private / "old"
        kept = None if MODEL in self.made or self._is_old else self.set_model_aside()
        self.made.add(MODEL, models)
        if target.exists():
            target.rename(old)
        models.rename(target)
        _discard(old)
        return kept

    def set_model_aside(self) -> str | None:
        """Rename the model that is there, so that nobody takes it for this run's.

        Returns:
            Its new name; None if there is none.
        """
        if not (self.path / MODEL).exists():
            return None
        name, number = PREVIOUS, 1
        while (self.path / name).exists():
            number += 1
            name = f"{PREVIOUS}.{number}"
        (self.path / MODEL).rename(self.path / name)
        logger.warning("the model of an earlier run is in %s now", self.path / name)
        return name

    @property
    def _private(self) -> Path:
        return self.path / RECORD_FOLDER

    def _refuse_foreign_database(self, *, overwrite: bool) -> None:
        path = self.path / DATABASE
        refuse_foreign_database(
            path, owner=RECONSTRUCTION, overwrite=overwrite, is_known=self._is_old
        )

    def _has_equal_pairs(self) -> bool:
        path = self.path / PAIRS
        return path.is_file() and path.read_bytes() == self._pairs

    def _recover(self) -> None:
        """Finish what a killed run began, and take over a folder of version 0.1."""
        old, target = self._private / "old", self.path / MODEL
        if old.exists() and not target.exists():
            old.rename(target)
        _discard(old)
        if self._has_equal_pairs():
            self.made.add(PAIRS, self._pairs)
        if self._is_old:
            for name in KINDS:
                if (self.path / name).exists():
                    self.made.add(name, self.path / name)


def _discard(folder: Path) -> None:
    """Delete a folder; of a link, not what it leads to."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _is_record(path: Path, *, of_first_version: bool = False) -> bool:
    """Say whether a file is the record of a run's database."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return False
    is_ours = isinstance(content, dict) and content.keys() >= RECORD_KEYS
    return is_ours and not (of_first_version and MADE in content)
