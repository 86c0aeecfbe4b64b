"""Work on several things at once, each on its own share of the cores.

What one core does from start to end waits for no other core. Convolutions of one image on all cores
leave them idle wherever the image's work is not a convolution. torch's operations release Python's
lock, so threads will do; they share the weights.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from rekd_hloc.processor import num_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

WAITING = 2
"""Results for each worker that may wait for an earlier one, beside those in work."""


def num_shares(most: int) -> int:
    """Return in how many equal shares the threads of torch are used, at most so many."""
    return max(1, min(most, torch.get_num_threads(), num_cores()))


def map_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int
) -> Iterator[Result]:
    """Apply a function to items on threads, and return the results in the items' order.

    Few items are taken before their turn, so that memory does not grow with their number. The first
    exception is raised where its result would stand; what has not begun by then never does.

    Args:
        function: safe to call from several threads at once.
        items: taken one by one, by the caller's thread.
        num_workers: threads; each computes on an equal share of the threads that torch has now.
    """
    if num_workers <= 1:
        yield from map(function, items)
        return
    share = max(torch.get_num_threads() // num_workers, 1)
    # the number is torch's own for each thread that exists, and for new ones the last that was set
    before = torch.get_num_threads()
    ahead: deque[Future[Result]] = deque()
    workers = ThreadPoolExecutor(num_workers, initializer=torch.set_num_threads, initargs=(share,))
    try:
        for item in items:
            ahead.append(workers.submit(function, item))
            if len(ahead) >= WAITING * num_workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        workers.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)
