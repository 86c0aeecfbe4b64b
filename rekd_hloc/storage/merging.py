"""Files of features, or of matches, that were made in parts, become one."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.storage.provenance import differs


@dataclass(frozen=True)
class MergeSummary:
    """Tell what a merge did.

    Attributes:
        kind: ``features`` or ``matches``.
        num_all: images or pairs in the merged file.
        num_new: of them, those that were not in it before.
    """

    kind: str
    num_all: int
    num_new: int


def merge_files(parts: Sequence[Path], out: Path, *, overwrite: bool = False) -> MergeSummary:
    """Copy what is in several files into one; a merge that was stopped goes on.

    Args:
        parts: files of features, or of matches, all made with the same settings; they are only
            read. What several of them have is taken from the first.
        out: file to write, or to go on with.
        overwrite: delete an old ``out`` first.

    Raises:
        FileNotFoundError: one of the files is not there.
        ValueError: no file is named, one is ``out`` itself or damaged, they are of both kinds, or
            were made with different settings.
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
        if of_matches:
            return _merge_matches(matches, out, overwrite)
        return _merge_features(features, out, overwrite)


def _merge_features(parts: Sequence[FeatureStore], out: Path, overwrite: bool) -> MergeSummary:
    with FeatureStore.resume(out, parts[0].provenance, overwrite=overwrite) as merged:
        before = set(merged.names())
        done = set(before)
        for part in parts:
            for name in part.names():
                if name not in done:
                    merged.write_record(part.read_record(name))
                    done.add(name)
    return MergeSummary("features", len(done), len(done) - len(before))


def _merge_matches(parts: Sequence[MatchStore], out: Path, overwrite: bool) -> MergeSummary:
    with MatchStore.resume(out, parts[0].provenance, overwrite=overwrite) as merged:
        num_before = num_all = len(merged.pairs())
        for part in parts:
            for pair in part.pairs():
                if pair not in merged:
                    merged.write_record(part.read_record(*pair))
                    num_all += 1
    return MergeSummary("matches", num_all, num_all - num_before)
