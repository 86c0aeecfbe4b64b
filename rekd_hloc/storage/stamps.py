"""What the features of an image were made from: a stamp of its file, and one of its mask's.

A stamp is the file's length, its time, a hash of all its bytes, and a quick hash of its length and
of blocks at its head, at its end and evenly between. The quick one is looked at whenever a run goes
on, and costs the same for files of every size. Where the time is another, the hash of all decides:
a file that was copied or touched is the same file.

Up to ``WHOLE_BYTES`` the quick hash is over all bytes. In a larger file it cannot see bytes that
were changed in place between its blocks, by a program that put the file's time back. JPEG and PNG
are no such files in practice: an edit changes all that follows.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

WHOLE_BYTES = 1 << 18
"""Files up to this size are hashed whole in any case."""
BLOCK_BYTES, NUM_BLOCKS = 1 << 14, 8
"""Read of larger ones by the quick hash."""
DIGEST_BYTES = 16
CHUNK_BYTES = 1 << 20
IMAGE_STAMP, MASK_STAMP = "image_stamp", "mask_stamp"
"""Attributes of an image's group."""
NO_MASK = "none"


@dataclass(frozen=True)
class FileStamp:
    """Tell one state of a file from others.

    Attributes:
        size: bytes.
        mtime_ns: when it was written last, nanoseconds since 1970.
        quick: hash of its length and of some blocks, hexadecimal.
        whole: hash of all its bytes, hexadecimal.
    """

    size: int
    mtime_ns: int
    quick: str
    whole: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """Return the stamp of a file as it is now.

        Raises:
            OSError: it cannot be read, or is no regular file.
        """
        status = _regular(path)
        quick = _quick_hash(path, status.st_size)
        return cls(status.st_size, status.st_mtime_ns, quick, _whole_hash(path))

    def fits(self, path: Path) -> bool:
        """Say whether a file is still the one that was stamped.

        Raises:
            OSError: it cannot be read, or is no regular file.
        """
        status = _regular(path)
        if status.st_size != self.size or _quick_hash(path, status.st_size) != self.quick:
            return False
        return status.st_mtime_ns == self.mtime_ns or _whole_hash(path) == self.whole

    def to_text(self) -> str:
        """Return one line that :meth:`from_text` reads."""
        return " ".join(f"{key}={value}" for key, value in vars(self).items())

    @classmethod
    def from_text(cls, text: object) -> Self | None:
        """Return the stamp that a line holds; None if it holds none."""
        try:
            values = dict(part.split("=") for part in str(text).split())
            size, mtime_ns = int(values["size"]), int(values["mtime_ns"])
            return cls(size, mtime_ns, values["quick"], values["whole"])
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True)
class SourceStamps:
    """Tell what the features of one image were made from.

    Attributes:
        image: the image's file.
        mask: its mask's file; None if the whole image was used.
        mask_frame: the pixel grid that was asked for masks: ``auto``, ``file`` or ``upright``.
    """

    image: FileStamp
    mask: FileStamp | None
    mask_frame: str

    @classmethod
    def of(cls, image: Path, mask: Path | None, mask_frame: str) -> Self:
        """Return the stamps of files as they are now.

        Raises:
            OSError: one cannot be read, or is no regular file.
        """
        return cls(FileStamp.of(image), None if mask is None else FileStamp.of(mask), mask_frame)

    def fit(self, image: Path, mask: Path | None, mask_frame: str) -> bool:
        """Say whether features of these files would be the same; no where one cannot be read."""
        try:
            if mask is None or self.mask is None:
                return mask is None and self.mask is None and self.image.fits(image)
            is_same_mask = mask_frame == self.mask_frame and self.mask.fits(mask)
            return is_same_mask and self.image.fits(image)
        except OSError:
            return False

    @property
    def attributes(self) -> dict[str, str]:
        """Return what a features file records with the image."""
        mask = NO_MASK if self.mask is None else f"{self.mask.to_text()} frame={self.mask_frame}"
        return {IMAGE_STAMP: self.image.to_text(), MASK_STAMP: mask}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> Self | None:
        """Return what an image's attributes say; None if there are no stamps, or no whole ones."""
        image, text = FileStamp.from_text(attributes.get(IMAGE_STAMP)), attributes.get(MASK_STAMP)
        if image is None or not isinstance(text, str):
            return None
        if text == NO_MASK:
            return cls(image, None, "auto")
        mask, (_, _, frame) = FileStamp.from_text(text), text.partition(" frame=")
        return None if mask is None else cls(image, mask, frame)

    @property
    def digest(self) -> str:
        """Return sixteen digits for the contents of the files, whatever their times."""
        mask = (self.mask.whole, self.mask_frame) if self.mask is not None else ()
        text = " ".join((self.image.whole, *mask))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def source_digest(attributes: Mapping[str, Any]) -> str:
    """Return the digest of the stamps among an image's attributes; empty if there are none."""
    stamps = SourceStamps.from_attributes(attributes)
    return "" if stamps is None else stamps.digest


def _regular(path: Path) -> os.stat_result:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path} is no regular file")
    return status


def _quick_hash(path: Path, size: int) -> str:
    digest = hashlib.blake2b(str(size).encode(), digest_size=DIGEST_BYTES)
    with path.open("rb", buffering=0) as file:
        if size <= WHOLE_BYTES:
            digest.update(file.read(WHOLE_BYTES))
        else:
            for number in range(NUM_BLOCKS):
                file.seek(number * (size - BLOCK_BYTES) // (NUM_BLOCKS - 1))
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def _whole_hash(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with path.open("rb", buffering=0) as file:
        while block := file.read(CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest()
