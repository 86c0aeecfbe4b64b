"""Matches of image pairs in hloc's HDF5 schema: ``matches0`` and ``matching_scores0``.

``matches0`` has one entry for each keypoint of the first image: its partner's index, or -1. The
group's path is made of both names with ``-`` for ``/``; hloc's older files join them by ``_``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from rekd_hloc.storage.journal import Record
from rekd_hloc.storage.names import check_name, names_by_key, pair_group, split_group
from rekd_hloc.storage.store import Store
from rekd_hloc.types import Matches, Pair

MATCH_DATASETS = ("matches0", "matching_scores0")
SOURCES = ("source0", "source1")
"""Attributes of a pair: digests of what the features of both images were made from."""
FALLBACK = "fallback"
"""Attribute of a pair, 1 if its matches are a fallback; see ``Matches.is_fallback``."""
MAX_INDEX = 2**31 - 1
"""No image has more keypoints."""
INT16_MAX = 32_767
"""hloc keeps matches as int16; larger indices are stored as int32 here, which hloc reads too."""


class _Location(NamedTuple):
    """Where a pair is in a file, and what its group says of it."""

    group: str
    is_reversed: bool
    attributes: Mapping[str, Any]


class MatchStore(Store):
    """Matches of many image pairs in one file of hloc's schema; a context manager.

    hloc's names of groups do not tell ``a/b.jpg`` from ``a-b.jpg``, so the true names are stored
    as attributes beside the matches. Scores are stored as hloc's (1 + cosine) / 2.

    Attributes:
        path: the HDF5 file.
        provenance: what the matches were made with; empty for files of other programs.
    """

    MARKER = "matches0"
    _last: tuple[Pair, _Location | None] | None = None

    @classmethod
    def resume(cls, path: Path, provenance: Mapping[str, str], *, overwrite: bool = False) -> Self:
        """Open to write: a new file, or an old one to go on with, also after a kill.

        Raises:
            ValueError: the file holds matches made with something else, or is no HDF5 file.
            FileExistsError: the file holds features; these are not even overwritten.
            OSError: the folder cannot be written, or another process is writing the file.
        """
        return cls._resume(path, provenance, overwrite=overwrite)

    def pairs(self, names: Iterable[str] | None = None) -> list[Pair]:
        """Return all pairs in the file, sorted.

        Args:
            names: of the images. Files of hloc hold names with ``-`` for ``/``; this finds the
                true ones. Without it, such pairs come back as they are in the file.

        Raises:
            ValueError: two of the names are one in the file, or a group of it belongs to no pair
                of two images.
        """
        true_name = names_by_key(names or ())
        try:
            return sorted(
                stored_names(group, self._file.attributes(group)) or split_group(group, true_name)
                for group in self._file.groups(self.MARKER)
            )
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error

    def __contains__(self, pair: object) -> bool:
        if not isinstance(pair, tuple) or len(pair) != 2:
            return False
        return self._find(*pair) is not None

    def read(self, a: str, b: str) -> Matches:
        """Return matches from image ``a`` to image ``b``, in whichever order they were stored.

        Raises:
            ValueError: the pair is not in the file, or its matches are damaged.
        """
        location = self._find(a, b)
        if location is None:
            raise ValueError(f"{self.path} has no matches of ({a!r}, {b!r}); match that pair first")
        group, is_reversed, attributes = location
        record = self._file.read(group, MATCH_DATASETS)
        assert record is not None
        is_fallback = bool(attributes.get(FALLBACK))
        try:
            return replace(_matches(record.arrays, is_reversed), is_fallback=is_fallback)
        except ValueError as error:
            raise ValueError(f"pair ({a!r}, {b!r}) in {self.path}: {error}") from error

    def stored_order(self, a: str, b: str) -> Pair:
        """Return the two names in the order in which the pair is in the file, if it is."""
        location = self._find(a, b)
        return (b, a) if location is not None and location.is_reversed else (a, b)

    def fits(self, a: str, b: str, sources: Pair) -> bool:
        """Say whether a pair is in the file, and its images' features are still the same.

        Args:
            a: name of the first image.
            b: name of the second image.
            sources: of both, :meth:`rekd_hloc.storage.features.FeatureStore.source_digest` now.
        """
        return self.sources(a, b) == sources

    def sources(self, a: str, b: str) -> Pair | None:
        """Return digests of what the features of ``a`` and ``b`` were made from when matched.

        They are empty where that is not recorded, as in files of hloc; None without such a pair.
        """
        location = self._find(a, b)
        if location is None:
            return None
        _, is_reversed, attributes = location
        first, second = (str(attributes.get(key) or "") for key in SOURCES)
        return (second, first) if is_reversed else (first, second)

    def write(
        self,
        a: str,
        b: str,
        matches: Matches,
        num_keypoints_a: int,
        *,
        sources: Pair = ("", ""),
    ) -> None:
        """Add a pair, or replace it.

        Args:
            a: name of the first image.
            b: name of the second image.
            matches: each keypoint of ``a`` at most once.
            num_keypoints_a: how many keypoints image ``a`` has.
            sources: digests of what the features of ``a`` and ``b`` were made from; empty where
                that is not known.

        Raises:
            ValueError: indices out of range or repeated; the pair is there the other way round;
                names that hloc's form cannot tell apart; a store that was opened to read.
            OSError: the disk is full or gone; what was written before is safe.
        """
        check_name(a)
        check_name(b)
        if a == b:
            raise ValueError(f"image {a!r} is paired with itself; remove that pair")
        group = pair_group(a, b)
        stored = stored_names(group, self._file.attributes(group))
        if stored is not None and stored != (a, b):
            raise ValueError(
                f"the pairs {stored} and {(a, b)} have one name in hloc's form, where '/' becomes "
                "'-'; rename one of the images"
            )
        reverse = self._look_up(b, a)
        if reverse is not None and reverse[:2] == (pair_group(b, a), False):
            raise ValueError(f"{self.path} has {(b, a)} already, which is {(a, b)} reversed")
        try:
            arrays = _match_arrays(matches, num_keypoints_a)
        except ValueError as error:
            raise ValueError(f"pair ({a!r}, {b!r}): {error}") from error
        known: dict[str, Any] = dict(zip(SOURCES, sources, strict=True))
        known[FALLBACK] = int(matches.is_fallback)
        known = {key: value for key, value in known.items() if value}
        self._last = None
        self._file.append(Record(group, arrays, {"": {"name0": a, "name1": b, **known}}))

    def read_record(self, a: str, b: str) -> Record:
        """Return all numbers that are stored with a pair, as they are, and attributes.

        Raises:
            ValueError: the file lacks the pair, or is damaged there.
        """
        location = self._find(a, b)
        record = None if location is None else self._file.read_all(location[0])
        if record is None:
            raise ValueError(f"{self.path} has no matches of ({a!r}, {b!r}); match that pair first")
        return record

    def write_record(self, record: Record) -> None:
        """Add a pair, or replace it, with datasets and attributes as another file has them.

        Raises:
            ValueError: a store that was opened to read.
            OSError: the disk is full or gone; what was written before is safe.
        """
        self._last = None
        self._file.append(record)

    def _find(self, a: str, b: str) -> _Location | None:
        """Say where a pair is; hloc's older form comes last.

        The last answer is kept, since what asks for a pair asks several times.
        """
        if self._last is None or self._last[0] != (a, b):
            self._last = (a, b), self._look_up(a, b)
        return self._last[1]

    def _look_up(self, a: str, b: str) -> _Location | None:
        for separator in ("/", "_"):
            for first, second in ((a, b), (b, a)):
                group = pair_group(first, second, separator)
                if "matches0" in self._file.datasets(group):
                    attributes = self._file.attributes(group)
                    if stored_names(group, attributes) in (None, (first, second)):
                        return _Location(group, (first, second) != (a, b), attributes)
        return None


def stored_names(group: str, attributes: Mapping[str, Any]) -> Pair | None:
    """The names that this package writes beside matches; None where another program did.

    Raises:
        ValueError: they are no names, or those of another group.
    """
    if "name0" not in attributes and "name1" not in attributes:
        return None
    a, b = attributes.get("name0"), attributes.get("name1")
    if not isinstance(a, str) or not isinstance(b, str) or pair_group(a, b) != group:
        shown = f"name0 {a!r:.60} and name1 {b!r:.60}"
        raise ValueError(f"group {group!r} has {shown}, which are not its images; match again")
    return a, b


def _matches(arrays: dict[str, NDArray[Any]], is_reversed: bool) -> Matches:
    if "matches0" not in arrays:
        raise ValueError("has no matches0; match that pair again")
    stored = arrays["matches0"]
    if stored.dtype.kind not in "iu" or stored.max(initial=0) > MAX_INDEX:
        raise ValueError(
            f"matches0 is {stored.dtype}, up to {stored.max(initial=0)}; it must be whole numbers "
            f"up to {MAX_INDEX}: match that pair again"
        )
    partner = stored.astype(np.int64)
    score = arrays.get("matching_scores0", np.ones(partner.shape))
    if partner.ndim != 1 or score.shape != partner.shape:
        raise ValueError(
            f"matches have shape {partner.shape}, scores {score.shape}; both must be (keypoint,)"
        )
    if partner.min(initial=0) < -1:
        raise ValueError(
            f"has the index {partner.min()}: more than {INT16_MAX} keypoints were stored in 16 "
            "bits; match again with fewer"
        )
    index_a = np.flatnonzero(partner >= 0)
    columns = (index_a, partner[index_a])
    index = np.stack(columns[::-1] if is_reversed else columns, axis=1)
    with np.errstate(over="ignore"):
        cosine = (2.0 * score[index_a].astype(np.float64) - 1.0).astype(np.float32)
    if not np.isfinite(cosine).all():
        raise ValueError("some matching_scores0 are not finite; match that pair again")
    return Matches(torch.from_numpy(index), torch.from_numpy(cosine))


def _match_arrays(matches: Matches, num_keypoints_a: int) -> dict[str, NDArray[Any]]:
    index_a, index_b = matches.index.cpu().numpy().T
    if len(index_a) and (index_a.max() >= num_keypoints_a or matches.index.min() < 0):
        raise ValueError(
            f"indices run from {int(matches.index.min())} to {index_a.max()} in the first image, "
            f"which has {num_keypoints_a} keypoints"
        )
    if len(np.unique(index_a)) < len(index_a):
        raise ValueError("a keypoint of the first image is matched twice; hloc's form keeps one")
    dtype = np.int16 if index_b.max(initial=0) <= INT16_MAX else np.int32
    partner = np.full(num_keypoints_a, -1, dtype=dtype)
    partner[index_a] = index_b
    score = np.zeros(num_keypoints_a, dtype=np.float32)
    score[index_a] = (1.0 + matches.score.double().cpu().numpy()) / 2.0
    return {"matches0": partner, "matching_scores0": score}
