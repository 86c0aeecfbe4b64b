"""A pool of workers that each do one call at a time; one that dies is replaced."""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from rekd_hloc.cluster.engine import ClusterError
from rekd_hloc.cluster.worker import Call, Outcome, WorkerDiedError

logger = logging.getLogger(__name__)

MAX_STARTS = 3
"""Workers that may die as they start, for each worker of a pool and with none that was ready since,
before the pool gives up."""


class Worker(Protocol):
    """One process somewhere that has loaded a job."""

    def run(self, call: Call) -> Outcome:
        """Do a call, and wait for it.

        Raises:
            WorkerDiedError: it died meanwhile.
        """

    def close(self) -> None:
        """End it at once, also while another thread waits in :meth:`run`."""


class SlotPool:
    """Keeps a number of workers busy, with one thread here for each.

    Args:
        start_worker: starts the worker of a number from 0, and waits until it is ready.
        num_workers: how many.
    """

    def __init__(self, start_worker: Callable[[int], Worker], num_workers: int) -> None:
        self.num_workers = num_workers
        self._start_worker = start_worker
        self._calls: queue.Queue[tuple[Call, Future[Outcome]] | None] = queue.Queue()
        self._workers: dict[int, Worker] = {}
        self._failure: Exception | None = None
        self._is_closed = False
        self._num_dead = 0
        self._lock = threading.Lock()
        for number in range(num_workers):
            threading.Thread(target=self._serve, args=(number,), daemon=True).start()

    def submit(self, call: Call) -> Future[Outcome]:
        """Do a call on the next free worker; see :class:`rekd_hloc.cluster.engine.Pool`."""
        future: Future[Outcome] = Future()
        with self._lock:
            if self._failure is not None:
                future.set_exception(self._failure)
            else:
                self._calls.put((call, future))
        return future

    def close(self) -> None:
        """End all workers at once."""
        with self._lock:
            self._is_closed = True
            workers, self._workers = list(self._workers.values()), {}
        for worker in workers:
            worker.close()
        for _ in range(self.num_workers):
            self._calls.put(None)

    def _serve(self, number: int) -> None:
        """Do calls on one worker after the other, until the pool is closed."""
        worker = None
        while not self._is_closed:
            if worker is None:
                worker = self._start(number)
                if worker is None:
                    return
            item = self._calls.get()
            if item is None:
                return
            call, future = item
            try:
                future.set_result(worker.run(call))
            except WorkerDiedError as death:
                self._drop(number, worker)
                worker = None
                future.set_exception(death)
            except Exception as error:
                future.set_exception(error)

    def _start(self, number: int) -> Worker | None:
        """Return a worker that is ready; None if the pool is closed, or fails by this."""
        while not self._is_closed and self._failure is None:
            try:
                worker = self._start_worker(number)
            except WorkerDiedError as death:
                self._count_death(death)
            except Exception as error:
                self._fail(error)
            else:
                with self._lock:
                    self._num_dead = 0
                    if not self._is_closed:
                        self._workers[number] = worker
                        return worker
                worker.close()
        return None

    def _count_death(self, death: WorkerDiedError) -> None:
        if self._is_closed:
            return
        with self._lock:
            self._num_dead += 1
            is_hopeless = self._num_dead >= MAX_STARTS * self.num_workers
        logger.warning("a worker died as it started: %s", death)
        if is_hopeless:
            self._fail(ClusterError(f"workers die as they start: {death}"))

    def _drop(self, number: int, worker: Worker) -> None:
        with self._lock:
            self._workers.pop(number, None)
        with contextlib.suppress(Exception):  # it is dead already
            worker.close()

    def _fail(self, error: Exception) -> None:
        """Let all calls that are not begun, and all later ones, end by an error."""
        with self._lock:
            if self._is_closed or self._failure is not None:
                return
            self._failure = error
            while True:
                try:
                    item = self._calls.get_nowait()
                except queue.Empty:
                    return
                if item is not None:
                    item[1].set_exception(error)
