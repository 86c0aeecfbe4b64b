"""Finished files take the place of what an earlier export left, and of nothing else."""

from collections.abc import Iterator
from pathlib import Path

from rekd_hloc.locks import RECORD_FOLDER
from rekd_hloc.ownership import NOT_MADE, REMEDY, UNKNOWN, MadeFiles, kind_of


def refuse_foreign_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse to write into a folder of others, or over a file that was changed.

    Files of others beside an earlier export stay.

    Raises:
        FileExistsError: it does; the message names the first such file and the remedy.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"output {folder} is a file; name a folder")
    if overwrite or not folder.is_dir():
        return
    made = MadeFiles(folder)
    known = made.names()
    for name in _names_below(folder):
        if name in known and name not in made:
            raise FileExistsError(f"{folder / name} was changed since rekd-hloc made it; {REMEDY}")
        if not known:
            raise FileExistsError(f"{folder / name} was not made by rekd-hloc; {REMEDY}")


def place_files(scratch: Path, folder: Path, *, overwrite: bool) -> list[Path]:
    """Move finished files into a folder, and delete what an earlier export made beside them.

    Args:
        scratch: holds the files, on the same file system.
        folder: which this process holds.
        overwrite: replace files that others made.

    Returns:
        The files, where they are now.

    Raises:
        FileExistsError: a file of others is there.
        OSError: a file cannot be moved.
    """
    made = MadeFiles(folder)
    names = sorted(_names_below(scratch))
    for name in names:
        made.refuse_foreign(name, kind_of(scratch / name) or UNKNOWN, overwrite=overwrite)
    for name in made.names().difference(names):
        if name in made:
            (folder / name).unlink(missing_ok=True)
    for place in scratch.rglob("*"):
        if place.is_dir():
            (folder / place.relative_to(scratch)).mkdir(parents=True, exist_ok=True)
    for name in names:
        made.add(name, scratch / name)
        (scratch / name).replace(folder / name)
    return [folder / name for name in names]


def _names_below(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        if path.is_file() and inside.parts[0] != RECORD_FOLDER and path.name not in NOT_MADE:
            yield inside.as_posix()
