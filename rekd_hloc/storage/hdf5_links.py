"""What a group of an HDF5 file holds, where links may lead out of the file or round in circles.

No link to another file is followed: opening a pipe or a device would wait for ever.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Self

import h5py

from rekd_hloc.storage.hdf5_groups import HDF5_ERRORS, is_external

logger = logging.getLogger(__name__)

DATASETS = frozenset(
    ("keypoints", "descriptors", "scores", "scales", "oris", "image_size")
    + ("matches0", "matching_scores0")
)
"""Names in a group of features or matches that need no look whether they are groups."""
DAMAGED = "is damaged and cannot be read; make the file again, or see `rekd-hloc check --deep`"
EXTERNAL_FLAW = "is a link to another file, which is not followed"
MAX_DEPTH = 64
"""Groups in one another; folders of photos have a few."""


@dataclass(frozen=True)
class Way:
    """Remember the groups on the way to one, and all that were met before, by their addresses."""

    above: tuple[int, ...] = ()
    seen: set[int] = field(default_factory=set)

    def into(self, group: h5py.Group) -> Self:
        """Return the way to what is in a group."""
        address = _address(group)
        self.seen.add(address)
        return replace(self, above=(*self.above, address))

    def flaw(self, group: h5py.Group, name: str, below: h5py.Group | None) -> str | None:
        """Say why a member of a group must not be followed, or cannot be read; None if it may.

        Args:
            group: that holds the member.
            name: of the member.
            below: the group that it is; None for data, links to nothing, and what is damaged.
        """
        try:
            return _unread_flaw(group, name) if below is None else self._group_flaw(below)
        except HDF5_ERRORS:
            return DAMAGED

    def _group_flaw(self, below: h5py.Group) -> str | None:
        address = _address(below)
        if address in self.above:
            return "is a link back to a group around it"
        if len(self.above) >= MAX_DEPTH:
            return f"is more than {MAX_DEPTH} groups deep"
        holds_groups = any(member_kind(below, name) is h5py.Group for name in member_names(below))
        if address in self.seen and holds_groups:
            return "is one more link to a group of groups, which could go on without end"
        return None


def walk(group: h5py.Group, marker: str, prefix: str = "", way: Way | None = None) -> Iterator[str]:
    """Paths of the groups below that hold a dataset named ``marker``.

    Raises:
        ValueError: a link leads out of the file or to a group that holds it, there is no end, or a
            group is damaged; none is left out without a word.

    Example:
        >>> list(walk(h5py.File("features.h5"), "keypoints"))  # doctest: +SKIP
        ['a.jpg', 'folder/b.jpg']
    """
    try:
        way = (way or Way()).into(group)
        names = [name for name in group if isinstance(name, str)]
    except HDF5_ERRORS as error:
        raise ValueError(f"{group.file.filename}: {prefix or '/'!r} {DAMAGED}: {error}") from error
    if prefix and marker in names and marker in dataset_names(group):
        yield prefix
        names = [name for name in names if name not in DATASETS]
    for name in names:
        path = f"{prefix}/{name}" if prefix else name
        below = open_group(group, name)
        flaw = way.flaw(group, name, below)
        if flaw is not None:
            shown = path if len(path) < 200 else f"{path[:200]}..."
            raise ValueError(f"{group.file.filename}: {shown!r} {flaw}")
        if below is not None:
            yield from walk(below, marker, path, way)


def _unread_flaw(group: h5py.Group, name: str) -> str | None:
    """Say what is wrong with a member that is no group; None for data, and links to nothing."""
    kind = member_kind(group, name)
    if kind is h5py.ExternalLink:
        return EXTERNAL_FLAW
    is_lost = kind is None and not isinstance(group.get(name, getlink=True), h5py.SoftLink)
    return DAMAGED if is_lost or kind is h5py.Group else None


def member_names(group: h5py.Group) -> list[str]:
    """Return names in a group; none if it is damaged."""
    try:
        return [name for name in group if isinstance(name, str)]
    except HDF5_ERRORS as error:
        logger.debug("damaged group: %s", error)
        return []


def member_kind(group: h5py.Group, name: str) -> type | None:
    """``h5py.Group``, ``h5py.Dataset``, ``h5py.ExternalLink`` or another; None if damaged."""
    try:
        external: type = h5py.ExternalLink
        kind: type | None = external if is_external(group, name) else group.get(name, getclass=True)
    except HDF5_ERRORS as error:
        logger.debug("damaged member %s: %s", name, error)
        return None
    return kind


def open_group(group: h5py.Group, name: str) -> h5py.Group | None:
    """Return the group of that name; None if it is none, or cannot be read."""
    if member_kind(group, name) is not h5py.Group:
        return None
    try:
        return group[name]
    except HDF5_ERRORS as error:
        logger.debug("damaged group %s: %s", name, error)
        return None


class GroupFinder:
    """Finds groups of files that do not change; the last one is at hand for the next question.

    Groups of pairs lie side by side in the group of their first image, which is kept as well.
    """

    def __init__(self) -> None:
        self._file: h5py.File | None = None
        self._last: list[tuple[str, h5py.Group | None]] = []

    def __call__(self, file: h5py.File, path: str) -> h5py.Group | None:
        """Return the group at a path; None if there is none, or it is damaged.

        Raises:
            ValueError: it lies in another file.
        """
        group: h5py.Group | None = file
        last = self._last if file is self._file else []
        self._file, self._last = file, []
        for depth, part in enumerate(path.split("/")):
            if group is None or not part:
                return None
            if depth < len(last) and last[depth][0] == part:
                group = last[depth][1]
            else:
                last = []
                if member_kind(group, part) is h5py.ExternalLink:
                    raise ValueError(f"{path!r} lies in another file, which is not followed")
                group = open_group(group, part)
            self._last.append((part, group))
        return group


def dataset_names(group: h5py.Group) -> set[str]:
    """Return names of the datasets in a group, and of links to other files, which are not read."""
    kinds = (h5py.Dataset, h5py.ExternalLink)
    return {name for name in member_names(group) if member_kind(group, name) in kinds}


def _address(group: h5py.Group) -> int:
    return int(h5py.h5o.get_info(group.id).addr)
