"""Files of features, or of matches, that were made in parts, become one."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.storage.journal import Record
from rekd_hloc.storage.provenance import differs


@dataclass(frozen=True)
class MergeSummary:
    """Tell what a merge did.

    Attributes:
        kind: ``features`` or ``matches``.
        num_all: images or pairs in the merged file.
        num_new: of them, those that were not in it before.
        num_replaced: those that were, and that a part has made anew since.
    """

    kind: str
    num_all: int
    num_new: int
    num_replaced: int


def merge_files(parts: Sequence[Path], out: Path, *, overwrite: bool = False) -> MergeSummary:
    """Copy what is in several files into one; a merge that was stopped goes on.

    Args:
        parts: files of features, or of matches, all made with the same settings; they are only
            read. What several of them have is taken from the first, what ``out`` has too from
            the part.
        out: file to write, or to go on with.
        overwrite: delete an old ``out`` first.

    Raises:
        FileNotFoundError: one of the files is not there.
        ValueError: no file is named, all are empty, one is ``out`` itself or damaged, they are of
            both kinds, or were made with different settings.
        FileExistsError: ``out`` is of the other kind.
        OSError: ``out`` cannot be written, or the disk is full; what is finished is kept.
    """
    if not parts:
        raise ValueError("no files to merge; name those of all shards")
    for part in parts:
        if part.resolve() == out.resolve():
            raise ValueError(f"{part} is both a part and the output; choose another output")
    with ExitStack() as stack:
        features = [stack.enter_context(FeatureStore(part)) for part in parts]
        matches = [stack.enter_context(MatchStore(part)) for part in parts]
        for store in features[1:]:
            if differs(store.provenance, features[0].provenance):
                raise ValueError(
                    f"{features[0].path} and {store.path} were made with different settings; "
                    "merge files of one run"
                )
        of_features = [store.path for store in features if store.names()]
        of_matches = [store.path for store in matches if store.pairs()]
        if of_features and of_matches:
            raise ValueError(
                f"{of_features[0]} holds features, {of_matches[0]} matches; merge each kind into "
                "a file of its own"
            )
        if not of_features and not of_matches:
            raise ValueError(f"{', '.join(map(str, parts))}: nothing to merge, they are empty")
        return _merge(matches if of_matches else features, out, overwrite)


def _merge(
    parts: Sequence[FeatureStore] | Sequence[MatchStore], out: Path, overwrite: bool
) -> MergeSummary:
    """Copy what is new, and what was made anew since an earlier merge."""
    kind = type(parts[0])
    num_new = num_replaced = 0
    with kind.resume(out, parts[0].provenance, overwrite=overwrite) as merged:
        before = {frozenset(key): key for key in _keys(merged)}
        seen = set()
        for part in parts:
            for key in _keys(part):
                if (images := frozenset(key)) in seen:
                    continue
                seen.add(images)
                record = part.read_record(*key)
                if images not in before:
                    num_new += 1
                elif not _is_same(record, merged.read_record(*before[images])):
                    num_replaced += 1
                else:
                    continue
                merged.write_record(record)
    name = "features" if kind is FeatureStore else "matches"
    return MergeSummary(name, len(before.keys() | seen), num_new, num_replaced)


def _keys(store: FeatureStore | MatchStore) -> list[tuple[str, ...]]:
    """Return what a file holds: names of images, or pairs of them."""
    if isinstance(store, MatchStore):
        return list(store.pairs())
    return [(name,) for name in store.names()]


def _is_same(one: Record, other: Record) -> bool:
    """Say whether two records hold the same numbers and attributes."""
    return (
        one.attrs == other.attrs
        and one.arrays.keys() == other.arrays.keys()
        and all(
            np.array_equal(values, other.arrays[name], equal_nan=values.dtype.kind == "f")
            for name, values in one.arrays.items()
        )
    )
