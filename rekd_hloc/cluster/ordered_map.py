"""Calls on a pool of workers, whose results come in order while few are in flight."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from rekd_hloc.cluster.engine import Pool
from rekd_hloc.cluster.worker import Call, Outcome, WorkerDiedError
from rekd_hloc.names import counted, printable

logger = logging.getLogger(__name__)

MAX_DEATHS = 3
"""Workers that may die on one call before it is given up."""
AHEAD = 2
"""Calls in flight, or done and not yet taken, for each worker."""


@dataclass(frozen=True)
class GivenUp:
    """Say why a call has no result: workers died on it."""

    reason: str


@dataclass
class _Running:
    call: Call
    future: Future[Outcome]
    num_deaths: int = 0


def map_in_order(
    pool: Pool, calls: Iterable[Call | str], *, max_deaths: int = MAX_DEATHS
) -> Iterator[Any]:
    """Yield the result of each call, in order; a :class:`GivenUp` where workers died on it.

    The next calls are taken from ``calls`` only as results are used up, so memory stays flat.

    Args:
        pool: workers.
        calls: made one by one, as they are sent; a text is a result that is there already.
        max_deaths: workers that a call may cost.

    Raises:
        Exception: what a call raised, in its turn; or what says that there are no workers.
    """
    running: deque[_Running] = deque()
    waiting = iter(calls)
    is_empty = False
    limit = AHEAD * pool.num_workers + 1
    while True:
        while not is_empty and len(running) < limit:
            call = next(waiting, None)
            if call is None:
                is_empty = True
            elif isinstance(call, Call):
                running.append(_Running(call, pool.submit(call)))
            else:
                running.append(_Running(Call("", None), _done(call)))
        if not running:
            return
        _redo_lost(pool, running, max_deaths)
        try:
            outcome = running[0].future.result()
        except WorkerDiedError as death:
            num_deaths = running[0].num_deaths + death.num_deaths
            if num_deaths < max_deaths:
                continue  # counted and done again by the next round
            running.popleft()
            killed = counted(num_deaths, "worker")
            yield GivenUp(f"{killed} died on it: {death}")
        else:
            running.popleft()
            yield outcome.unwrap()


def _redo_lost(pool: Pool, running: deque[_Running], max_deaths: int) -> None:
    """Send calls again whose workers died, unless they cost too many."""
    for item in running:
        if not item.future.done() or item.future.cancelled():
            continue
        death = item.future.exception()
        if not isinstance(death, WorkerDiedError):
            continue
        if item.num_deaths + death.num_deaths >= max_deaths:
            continue
        item.num_deaths += death.num_deaths
        logger.warning("%s: %s; it is done again", printable(item.call.label), death)
        item.future = pool.submit(item.call)


def _done(value: str) -> Future[Outcome]:
    future: Future[Outcome] = Future()
    future.set_result(Outcome(value))
    return future
