"""One of several equal parts of a list of work, for machines that share nothing but its result."""

import re
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def take_shard(items: Sequence[Item], shard: str | None) -> list[Item]:
    """Return one of several parts of a list, of neighbours in it and as many as in the others.

    Args:
        items: all of them, in the same order wherever a part is taken.
        shard: such as ``3/8``, the third of eight; all items when None.

    Raises:
        ValueError: it is no such text, or the number is not from 1 to that of the parts.
    """
    if shard is None:
        return list(items)
    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    number, count = (int(part) for part in found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise ValueError(f"shard must be like 3/8, from 1/8 to 8/8, got {shard!r}")
    begin, end = (len(items) * place // count for place in (number - 1, number))
    return list(items[begin:end])
