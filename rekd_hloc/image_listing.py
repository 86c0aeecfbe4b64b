"""Which files below a folder are images, and which look like photos and are not used.

Links are followed, to files and to folders. A folder is read once, whatever the number of its
names: by its own name rather than through a link, and through the first of several links. So links
that lead back into the folder end nowhere, and no photo takes part twice because of them.
"""

import logging
import os
import stat
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from rekd_hloc.image_kinds import SUFFIXES, explain_unused, is_image, is_raw
from rekd_hloc.names import printable

logger = logging.getLogger(__name__)

THINGS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
FolderId = tuple[int, int]


@dataclass(frozen=True)
class ImageListing:
    """Tell what is in a folder.

    Attributes:
        images: names relative to the folder, with ``/``, sorted.
        unused: by their names, what looks like a photo and is not used; why, and what to do.
    """

    images: list[str]
    unused: dict[str, str]

    def require_images(self, folder: Path) -> None:
        """Refuse a listing without images.

        Raises:
            ValueError: there is none; the message says what there is instead.
        """
        if self.images:
            return
        if self.unused:
            reason = next(iter(self.unused.values()))
            raise ValueError(
                f"{printable(folder)} holds no image that can be used; "
                f"{describe_number(len(self.unused))} left out, such as: {reason}"
            )
        endings = " ".join(sorted(SUFFIXES))
        raise ValueError(f"{printable(folder)} holds no image; files must end in one of {endings}")


def list_images(folder: Path) -> list[str]:
    """Return names of all images below a folder, relative to it, with ``/``, sorted.

    What looks like a photo and is not used is counted in a warning; :func:`list_folder` names it.

    Raises:
        FileNotFoundError, OSError: as :func:`list_folder`.
        ValueError: the folder holds no image.
    """
    listing = list_folder(folder)
    listing.require_images(folder)
    if listing.unused:
        number = describe_number(len(listing.unused))
        reason = next(iter(listing.unused.values()))
        logger.warning("%s: %s left out, such as: %s", printable(folder), number, reason)
    return listing.images


def list_folder(folder: Path, *, leave_out: Iterable[Path | None] = ()) -> ImageListing:
    """List the images below a folder, and what looks like a photo there and is not used.

    Hidden files and folders, whose names begin with one dot, are left out without a word.

    Args:
        folder: searched with its subfolders, and those that links in it lead to.
        leave_out: folders that are not searched if they are met.

    Raises:
        FileNotFoundError: there is no such folder.
        OSError: it cannot be searched.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no image folder {printable(folder)}")
    search = _Search(folder)
    others = [_identify(other) for other in leave_out if other is not None and other.is_dir()]
    search.visited.update(others)
    search.visited.discard(_identify(folder))
    search.run()
    search.leave_out_developed()
    return ImageListing(sorted(search.images), dict(sorted(search.unused.items())))


def describe_number(count: int) -> str:
    """Return how many files are left out, as the subject of a sentence."""
    return "1 file is" if count == 1 else f"{count} files are"


@dataclass
class _Search:
    """Hold what a search has met so far; names are relative to the folder that it began in."""

    root: Path
    images: list[str] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)
    visited: set[FolderId] = field(default_factory=set)
    above: set[FolderId] = field(default_factory=set)
    links: deque[str] = field(default_factory=deque)
    folders: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Search the root, then what links lead to that was not searched yet, in their order."""
        self._search("")
        self.above.update(map(_identify, self.root.resolve().parents))
        while self.links:
            self._search(self.links.popleft())
        self._report_empty_folders()

    def leave_out_developed(self) -> None:
        """Leave out raw photos beside which the camera or someone else put a developed one."""
        raw = {name for name in self.images if is_raw(name)}
        stems = {
            PurePosixPath(n).with_suffix("").as_posix(): n for n in self.images if n not in raw
        }
        for name in raw:
            developed = stems.get(PurePosixPath(name).with_suffix("").as_posix())
            if developed is not None:
                self.images.remove(name)
                self._leave_out(
                    name, f"camera raw of {printable(developed)}, which is used; remove that one "
                    "to use the raw"
                )  # fmt: skip

    def _search(self, start: str) -> None:
        """Search one folder and its own subfolders; links to folders are noted for later."""
        waiting = [start]
        while waiting:
            name = waiting.pop()
            try:
                identity = _identify(self.root / name)
                if identity in self.above:
                    self._leave_out(name, "a link to a folder that holds this one; link to a part")
                    continue
                if identity in self.visited:
                    logger.info("%s is another name of a folder that is left out or read", name)
                    continue
                (self.root / name / "..").stat()  # names can be read where files cannot be reached
                with os.scandir(self.root / name) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                self._report_folder(name, error)
                continue
            self.visited.add(identity)
            self.folders.append(name)
            subfolders = [sub for entry in found if (sub := self._classify(name, entry))]
            waiting += reversed(subfolders)

    def _classify(self, folder: str, entry: "os.DirEntry[str]") -> str | None:
        """Note what an entry of a folder is; returns the name of a subfolder to search now."""
        if entry.name.startswith(".") and not entry.name.startswith(".."):
            return None
        name = f"{folder}/{entry.name}" if folder else entry.name
        try:
            kind = _kind(entry)
        except OSError as error:
            if _looks_like_image(name) or not Path(name).suffix[1:2].isalpha():
                self._report_link(name, error)  # without an ending, it may have led to a folder
            return None
        if kind == stat.S_IFDIR:
            if not entry.is_symlink():
                return name
            self.links.append(name)
        elif _looks_like_image(name):
            self._take(name, kind)
        return None

    def _take(self, name: str, kind: int) -> None:
        thing = THINGS.get(kind)
        reason = explain_unused(name)
        if thing is not None:
            self._leave_out(name, f"{thing}, not a file; remove it, or rename it")
        elif not _is_unicode(name):
            self._leave_out(name, "a file whose name is not UTF-8; rename it")
        elif reason is not None:
            self._leave_out(name, reason)
        else:
            self.images.append(name)

    def _leave_out(self, name: str, reason: str) -> None:
        self.unused[name] = f"{printable(name)} is {reason}"

    def _report_empty_folders(self) -> None:
        """Name folders that are called like images and hold nothing that is reported otherwise."""
        names = [name for name in self.folders if _looks_like_image(name)]
        inside = (*self.images, *self.unused) if names else ()
        holding = {str(parent) for name in inside for parent in PurePosixPath(name).parents}
        for name in names:
            if name not in holding:
                self._leave_out(name, "a folder without images; remove it, or rename it")

    def _report_folder(self, name: str, error: OSError) -> None:
        reason = error.strerror or str(error)
        if not name:
            folder = printable(self.root)
            raise type(error)(
                f"cannot search the image folder {folder}: {reason}; make it readable"
            ) from error
        self._leave_out(
            name, f"a folder that cannot be searched: {reason}; make it readable, or rename it"
        )

    def _report_link(self, name: str, error: OSError) -> None:
        try:
            target = f"a link to {printable((self.root / name).readlink())}"
        except OSError:
            target = "a file"
        if isinstance(error, FileNotFoundError):
            self._leave_out(name, f"{target}, which is not there; restore that, or remove the link")
        else:
            reason = error.strerror or str(error)
            self._leave_out(name, f"{target}, which cannot be read: {reason}; mend or remove it")


def _kind(entry: "os.DirEntry[str]") -> int:
    """Return the type of file, that of its target for a link; nothing is opened."""
    if entry.is_symlink():
        return stat.S_IFMT(entry.stat().st_mode)
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)


def _looks_like_image(name: str) -> bool:
    return is_image(name) or explain_unused(name) is not None


def _identify(folder: Path) -> FolderId:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
