"""The batches of a run, drawn ahead of their steps, and this process's share of each."""

import logging
import re
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

from training.common.distributed import Process
from training.pair_cache import PairCache
from training.pairs import ImageSet, PairBatch

logger = logging.getLogger(__name__)

NUM_NAMED = 3
"""Skipped photos named for each reason."""


def draw_share(
    source: ImageSet | PairCache, process: Process, *, seed: int, step: int, batch_size: int
) -> PairBatch:
    """The pairs of a step's joint batch that fall to this process.

    All shares together, in the order of the processes' ranks, are what one process would draw.

    Raises:
        ValueError: the batch cannot be shared evenly.
    """
    share = process.share_of(batch_size)
    if isinstance(source, ImageSet):  # pairs are numbered through: draw no more than the share
        return source.batch(seed, step * process.count + process.rank, share)
    joint = source.batch(seed, step, batch_size)
    own = slice(process.rank * share, (process.rank + 1) * share)
    return PairBatch(**{item.name: getattr(joint, item.name)[own] for item in fields(joint)})


def load_ahead(
    draw: Callable[[int], PairBatch], first: int, last: int, num_threads: int
) -> Generator[PairBatch, None, None]:
    """``draw(step)`` for each step from ``first`` to before ``last``, a few steps ahead.

    The order and the batches are the same for any number of threads.
    """
    if num_threads == 0:
        yield from map(draw, range(first, last))
        return
    with ThreadPoolExecutor(num_threads) as pool:
        ahead: deque[Future[PairBatch]] = deque()
        try:
            for step in range(first, last):
                ahead.append(pool.submit(draw, step))
                if len(ahead) > num_threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def report_skipped(skipped: Mapping[str, str], num_photos: int) -> None:
    """Log how many photos are left out, why, and a few of their names.

    Args:
        skipped: reason by path.
        num_photos: of all, the skipped ones too.
    """
    by_reason: dict[str, list[str]] = defaultdict(list)
    for path, reason in skipped.items():
        by_reason[re.sub(r"\d+ <", "below", reason)].append(Path(path).name)
    for reason, names in sorted(by_reason.items()):
        more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
        shown = ", ".join(names[:NUM_NAMED]) + more
        logger.warning("skipped %d of %d photos, %s: %s", len(names), num_photos, reason, shown)
