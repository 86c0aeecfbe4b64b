"""What the HPatches release holds: its 116 sequences, the named splits, and what a copy lacks.

The splits are those of the HPatches benchmark (a, b, c: 40 test sequences each) and of Key.Net's
and REKD's code (debug: ten). Other sequences (Oxford, a list of pairs) have only the split
``full``, and ``view`` or ``illum`` where the sequence is known to be of that kind.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from evaluation.homography.homographies import RELEASE, HomographyPair

SPLITS = ("full", "view", "illum", "a", "b", "c", "debug")
PAIRS_OF_A_SEQUENCE = 5

_OXFORD_KINDS = {
    "graf": "view",
    "wall": "view",
    "bark": "view",
    "boat": "view",
    "leuven": "illum",
    "bikes": "blur",
    "trees": "blur",
    "ubc": "jpeg",
}


@cache
def release_names() -> dict[str, frozenset[str]]:
    """Sequences of the release by split, and ``high_resolution``, which D2-Net leaves out."""
    stored = json.loads((Path(__file__).parent / "hpatches_splits.json").read_text())
    names = {split: frozenset(text.split()) for split, text in stored.items()}
    names["illum"] = frozenset(f"i_{name}" for name in names["illum"])
    names["view"] = frozenset(f"v_{name}" for name in names["view"])
    names["full"] = names["illum"] | names["view"]
    return names


def kind_of(sequence: str) -> str:
    """``view``, ``illum``, ``blur``, ``jpeg``, or ``other`` where the name does not tell."""
    if sequence.startswith("v_"):
        return "view"
    if sequence.startswith("i_"):
        return "illum"
    return _OXFORD_KINDS.get(sequence, "other")


def in_split(sequence: str, split: str) -> bool:
    """Say whether a sequence belongs to a split; ``full`` takes all.

    Raises:
        ValueError: no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; splits are {', '.join(SPLITS)}")
    if split == "full":
        return True
    if split in ("view", "illum"):
        return kind_of(sequence) == split
    return sequence in release_names()[split]


def select_split(
    pairs: Sequence[HomographyPair], split: str, *, without_high_resolution: bool = False
) -> list[HomographyPair]:
    """Return the pairs of a split.

    Raises:
        ValueError: no such split, or none of the pairs belongs to it.
    """
    left_out = release_names()["high_resolution"] if without_high_resolution else frozenset()
    chosen = [p for p in pairs if in_split(p.sequence, split) and p.sequence not in left_out]
    if not chosen:
        found = ", ".join(sorted({pair.sequence for pair in pairs})[:10])
        raise ValueError(f"no sequence here belongs to split {split!r}; found {found}; {RELEASE}")
    return chosen


def what_is_missing(pairs: Sequence[HomographyPair], split: str) -> str:
    """One message on what a copy of the release lacks; empty if nothing or no HPatches at all."""
    counts: dict[str, int] = {}
    for pair in pairs:
        counts[pair.sequence] = counts.get(pair.sequence, 0) + 1
    names = release_names()
    if not counts.keys() & names["full"]:
        return ""
    wanted = names[split]
    absent = sorted(wanted - counts.keys())
    short = sorted(n for n in wanted & counts.keys() if counts[n] < PAIRS_OF_A_SEQUENCE)
    parts = []
    if absent:
        listed = ", ".join(absent[:8]) + (", ..." if len(absent) > 8 else "")
        parts.append(f"{len(absent)} of the {len(wanted)} sequences of split {split}: {listed}")
    if short:
        parts.append(f"some of the {PAIRS_OF_A_SEQUENCE} pairs of {', '.join(short)}")
    return f"missing: {'; '.join(parts)}; {RELEASE}" if parts else ""
