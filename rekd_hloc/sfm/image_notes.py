"""How files were read where there was a choice: stored with the features, and told to the user."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rekd_hloc.names import counted, list_names, printable
from rekd_hloc.sfm.mask_frames import EITHER, FILE, UPRIGHT
from rekd_hloc.storage.feature_arrays import value_range_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageNotes:
    """Tell how one image was read.

    Attributes:
        value_range: the values that became black and white; None for an image of 8 bits.
        mask_frame: ``file``, ``upright`` or ``either``, as in
            :class:`rekd_hloc.sfm.mask_frames.FittedMask`; None where there was no choice.
    """

    value_range: tuple[float, float] | None = None
    mask_frame: str | None = None

    @property
    def attributes(self) -> dict[str, str | float]:
        """Return what a features file records with the image: ``black``, ``white``, ..."""
        found: dict[str, str | float] = {}
        if self.value_range is not None:
            found |= dict(zip(("black", "white"), self.value_range, strict=True))
        return found if self.mask_frame is None else {**found, "mask_frame": self.mask_frame}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> "ImageNotes":
        """Return what an image's attributes say; those of other programs say nothing."""
        frame = attributes.get("mask_frame")
        is_known = isinstance(frame, str) and frame in (FILE, UPRIGHT, EITHER)
        return cls(value_range_of(attributes), frame if is_known else None)


def warn_of_notes(notes: Mapping[str, ImageNotes]) -> None:
    """Log at most one line for each kind of choice, whatever the number of images.

    Args:
        notes: of each image by its name.
    """
    ranges = {name: note.value_range for name, note in notes.items() if note.value_range}
    if ranges:
        logger.warning("%s", describe_value_ranges(ranges))
    upright = describe_upright_masks({name: note.mask_frame for name, note in notes.items()})
    if upright:
        logger.info("%s", upright)
    either = _named(notes, EITHER)
    if either:
        logger.warning(
            "%s the image both as its file has it and upright as EXIF says: %s; taken as the file "
            "has it, as in COLMAP; --mask-frame upright takes it otherwise",
            counted(len(either), "mask fits", "masks fit"), list_names(either),
        )  # fmt: skip


def describe_value_ranges(ranges: Mapping[str, Sequence[float]]) -> str:
    """Return a line about images that are not of 8 bits.

    Args:
        ranges: black and white of at least one image, by its name.
    """
    name, (black, white) = next(iter(ranges.items()))
    return (
        f"{counted(len(ranges), 'image is', 'images are')} not of 8 bits; each was read between a "
        f"black and a white of its own, {printable(name)} from {black:g} to {white:g}"
    )


def describe_upright_masks(mask_frames: Mapping[str, str | None]) -> str | None:
    """Return a line about masks that were rotated; None if there are none.

    Args:
        mask_frames: as in :class:`ImageNotes`, by the image's name.
    """
    names = [name for name, frame in mask_frames.items() if frame == UPRIGHT]
    if not names:
        return None
    return (
        f"{counted(len(names), 'mask is', 'masks are')} upright as the EXIF of the image says, "
        f"and rotated into the file's grid: {list_names(names)}"
    )


def _named(notes: Mapping[str, ImageNotes], frame: str) -> list[str]:
    return [name for name, note in notes.items() if note.mask_frame == frame]
