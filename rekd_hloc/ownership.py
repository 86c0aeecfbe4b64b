"""What belongs to someone else: files and folders that this program may not replace.

A file that we did not make is replaced only where the user asks for it; one whose kind can never
be the output, such as a photo where a database goes, not even then.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from rekd_hloc.files import explain_os_error, write_bytes
from rekd_hloc.json_text import parse_json
from rekd_hloc.locks import RECORD_FOLDER

logger = logging.getLogger(__name__)

HDF5, SQLITE, TEXT = "an HDF5 file", "an SQLite database", "text"
PNG, SAFETENSORS, ONNX = "a PNG image", "a safetensors file", "an ONNX graph"
FOLDER, EMPTY, UNKNOWN = "a folder", "an empty file", "data of no kind that is known here"
BINARY = (HDF5, SQLITE, SAFETENSORS, ONNX)
"""Kinds of which a damaged file is not recognised any more."""
HEADS = {
    b"\x89HDF\r\n\x1a\n": HDF5,
    b"SQLite format 3\0": SQLITE,
    b"\x89PNG\r\n\x1a\n": PNG,
    b"\xff\xd8\xff": "a JPEG image",
    b"II*\0": "a TIFF or raw image",
    b"MM\0*": "a TIFF or raw image",
    b"GIF8": "a GIF image",
    b"RIFF": "a WebP image, a sound or a film",
    b"BM": "a BMP image",
    b"%PDF": "a PDF file",
    b"PK\3\4": "a ZIP archive or a PyTorch checkpoint",
    b"\x1f\x8b": "a gzip archive",
    b"\x93NUMPY": "a NumPy array",
    b"\x80\2": "a pickle",
    b"\x80\4": "a pickle",
    b"\x7fELF": "a program",
}
"""First bytes of files."""
HEAD_BYTES = 2_048
MADE_NAME = "made.jsonl"
NOT_MADE = frozenset((".DS_Store", "Thumbs.db", "desktop.ini"))
"""Files that the system puts into folders while a user looks at them."""
REMEDY = "choose another output, or replace it with --overwrite"


def kind_of(path: Path) -> str | None:
    """Tell in words what is at a path, by its first bytes; None where nothing is.

    Raises:
        OSError: the file may not be read.
    """
    if path.is_dir():
        return FOLDER
    if not path.exists():
        return None
    if not path.is_file():
        return "a device or a pipe"
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        return EMPTY
    for start, kind in HEADS.items():
        if head.startswith(start) and not (start == b"BM" and b"\0" not in head):
            return kind
    if head[4:8] == b"ftyp":
        return "a HEIC or AVIF image, or a film"
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return SAFETENSORS
    if b"\xd0HDF" in head or head[512:520] == b"\x89HDF\r\n\x1a\n":
        return HDF5
    return UNKNOWN if b"\0" in head else TEXT


def refuse_kind(path: Path, kind: str) -> None:
    """Refuse to write a kind of file where something is that can be no older version of it.

    Raises:
        FileExistsError: there is such a thing; not even ``--overwrite`` replaces it.
    """
    found = kind_of(path)
    allowed = {None, kind, EMPTY} | ({UNKNOWN} if kind in BINARY else set())
    if found not in allowed:
        raise FileExistsError(f"{path} is {found}, where {kind} would go; choose another output")


def refuse_foreign(path: Path, kind: str, *, overwrite: bool, is_ours: bool = False) -> None:
    """Refuse to replace what someone else made.

    Args:
        path: to be written.
        kind: of what would be written there.
        overwrite: the user has asked for it.
        is_ours: there is a record that this program made what is there.

    Raises:
        FileExistsError: it must stay; the message says what it is and what to do.
    """
    refuse_kind(path, kind)
    if not overwrite and not is_ours and kind_of(path) not in (None, EMPTY):
        raise FileExistsError(f"{path} is there and was not made by rekd-hloc; {REMEDY}")


def replace_text(path: Path, text: str, *, overwrite: bool) -> None:
    """Write a text file, unless one is there that holds something else.

    Raises:
        FileExistsError: one is there, and ``overwrite`` is off; or it can be no text.
        OSError: the file cannot be written, or the disk is full.
    """
    replace_bytes(path, text.encode(), TEXT, overwrite=overwrite)


def replace_bytes(path: Path, data: bytes, kind: str, *, overwrite: bool) -> None:
    """Write a file of some kind, unless one is there that holds something else.

    Raises:
        FileExistsError: one is there, and ``overwrite`` is off; or it is of another kind.
        OSError: the file cannot be written, or the disk is full.
    """
    refuse_kind(path, kind)
    if path.is_file() and path.read_bytes() == data:
        return
    if not overwrite and kind_of(path) not in (None, EMPTY):
        raise FileExistsError(f"{path} is there and holds something else; {REMEDY}")
    write_bytes(path, data)


class MadeFiles:
    """The record of what this program made in a folder, by name and content.

    A line is added before a file comes to be, so that a kill in between leaves nothing unrecorded.
    What a user changes afterwards does not fit its record any more, and is the user's.

    Attributes:
        folder: whose files they are.
    """

    def __init__(self, folder: Path) -> None:
        """Read the record; without one, nothing in the folder is ours."""
        self.folder = folder
        self._path = folder / RECORD_FOLDER / MADE_NAME
        self._stamps: dict[str, set[str]] = {}
        if self._path.is_file():
            for line in self._path.read_bytes().splitlines():
                self._read(line)

    def __contains__(self, name: object) -> bool:
        """Say whether the file or folder of that name is as this program made it."""
        known = self._stamps.get(str(name), set())
        path = self.folder / str(name)
        return bool(known) and path.exists() and stamp(path) in known

    def names(self) -> set[str]:
        """Return what was made at some time, whatever became of it."""
        return set(self._stamps)

    def refuse_foreign(self, name: str, kind: str, *, overwrite: bool) -> None:
        """Refuse to replace what someone else made or changed.

        Raises:
            FileExistsError: it must stay; the message says why and what to do.
        """
        path = self.folder / name
        refuse_kind(path, kind)
        if overwrite or kind_of(path) in (None, EMPTY) or name in self:
            return
        if self._stamps.get(name):
            raise FileExistsError(f"{path} was changed since rekd-hloc made it; {REMEDY}")
        refuse_foreign(path, kind, overwrite=False)

    def add(self, name: str, content: Path | bytes) -> None:
        """Record what is about to come under a name: a finished file or folder, or bytes.

        Raises:
            OSError: the record cannot be written, or the disk is full.
        """
        made = _digest(content) if isinstance(content, bytes) else stamp(content)
        if made in self._stamps.get(name, ()):
            return
        line = json.dumps({"name": name, "stamp": made}).encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                file.write(b"\n" + line + b"\n")
        except OSError as error:
            raise explain_os_error(error, self._path, self.folder) from error
        self._stamps.setdefault(name, set()).add(made)

    def write(self, name: str, data: bytes) -> None:
        """Record and write a file, in place of what is there.

        Raises:
            OSError: it cannot be written, or the disk is full.
        """
        self.add(name, data)
        write_bytes(self.folder / name, data, kept_in=self.folder)

    def _read(self, line: bytes) -> None:
        try:
            entry = parse_json(line)
        except ValueError:  # cut short by a kill or a full disk
            return
        if isinstance(entry, Mapping):
            name, made = entry.get("name"), entry.get("stamp")
            if isinstance(name, str) and isinstance(made, str):
                self._stamps.setdefault(name, set()).add(made)


def stamp(path: Path) -> str:
    """Digest a file's content; or all names in a folder and their contents."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    lines = [f"{name}\0{stamp(path / name)}" for name in sorted(_files_below(path))]
    return _digest("\n".join(lines).encode("utf-8", "surrogateescape"))


def _files_below(folder: Path) -> Iterable[str]:
    for place, _, names in os.walk(folder):
        for name in names:
            if name not in NOT_MADE:
                yield Path(place, name).relative_to(folder).as_posix()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
