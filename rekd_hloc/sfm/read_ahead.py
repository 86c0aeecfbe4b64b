"""Items are read by threads before their turn, and worked on here: alike ones together.

A GPU is kept busy by several images of one size; the results come in the order of the items.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Result = TypeVar("Result")

MOST_PIXELS = 100_000_000
"""In memory; with more, no more images than there are readers are read ahead."""


@dataclass(frozen=True)
class Work(Generic[Item, Loaded, Result]):
    """What is done with items.

    Attributes:
        load: reads one, on any thread.
        extract: from what was read of alike items to their results, on the caller's thread.
        kind: of what was read: items of one kind are alike; None for one that is worked on alone.
        num_pixels: of what was read.
    """

    load: Callable[[Item], Loaded]
    extract: Callable[[Sequence[Loaded]], Sequence[Result]]
    kind: Callable[[Loaded], Hashable | None]
    num_pixels: Callable[[Loaded], int]


def work_ahead(
    work: Work[Item, Loaded, Result], items: Iterable[Item], num_readers: int, batch_size: int
) -> Iterator[Result]:
    """Return the results of items in their order; threads read the next ones meanwhile.

    Args:
        work: what is done.
        items: taken one by one.
        num_readers: threads.
        batch_size: alike items that are worked on together, at most.
    """
    # while a batch is worked on, the next one is read
    most = num_readers + (2 * batch_size if batch_size > 1 else 1)
    with ThreadPoolExecutor(num_readers) as readers:
        turns: deque[_Turn[Item, Loaded, Result]] = deque()
        for item in items:
            turns.append(_Turn(work, readers.submit(work.load, item)))
            while len(turns) >= most or (len(turns) > num_readers and _is_full(turns)):
                yield _take_turn(work, turns, batch_size)
        while turns:
            yield _take_turn(work, turns, batch_size)


class _Turn(Generic[Item, Loaded, Result]):
    """An item that is read, then worked on, until its result is asked for."""

    def __init__(self, work: Work[Item, Loaded, Result], loading: Future[Loaded]) -> None:
        self._work = work
        self._loading: Future[Loaded] | None = loading
        self.results: list[Result] = []

    @property
    def loaded(self) -> Loaded:
        """Wait for what is read."""
        assert self._loading is not None
        return self._loading.result()

    def wait(self) -> None:
        """Wait until it is read, or cannot be."""
        if self._loading is not None:
            futures.wait([self._loading])

    @property
    def num_pixels(self) -> int:
        """Return how many pixels it is known to have in memory."""
        loading = self._loading
        if loading is None or not loading.done() or loading.exception() is not None:
            return 0
        return self._work.num_pixels(loading.result())

    def finish(self, result: Result) -> None:
        """Keep the result in the place of what was read."""
        self.results.append(result)
        self._loading = None


def _is_full(turns: Iterable[_Turn[Item, Loaded, Result]]) -> bool:
    """Say whether the items that wait may have too many pixels: each as many as the largest known.

    The first of them is waited for, so that one is known; its turn is next.
    """
    waiting = [turn for turn in turns if not turn.results]
    if not waiting:
        return False
    waiting[0].wait()
    return max(turn.num_pixels for turn in waiting) * len(waiting) > MOST_PIXELS


def _take_turn(
    work: Work[Item, Loaded, Result], turns: deque[_Turn[Item, Loaded, Result]], batch_size: int
) -> Result:
    """Return the result of the first item, with which others may get theirs."""
    first = turns.popleft()
    if not first.results:
        kind = work.kind(first.loaded) if batch_size > 1 else None
        alike = (turn for turn in turns if not turn.results and work.kind(turn.loaded) == kind)
        batch = [first, *(islice(alike, batch_size - 1) if kind is not None else ())]
        results = work.extract([turn.loaded for turn in batch])
        for turn, result in zip(batch, results, strict=True):
            turn.finish(result)
    return first.results[0]
