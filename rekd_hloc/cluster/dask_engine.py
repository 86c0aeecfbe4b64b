"""Workers of a Dask cluster that runs already; needs the extra ``cluster``.

Dask places calls and replaces workers itself. A process that loads a job keeps it for all its
threads. Photos and features pass through Dask's scheduler.
"""

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import dask
import distributed

from rekd_hloc.cluster.engine import ClusterError
from rekd_hloc.cluster.reachability import check_reachable
from rekd_hloc.cluster.worker import (
    Call,
    Job,
    Outcome,
    Setup,
    WorkerDiedError,
    check_identity,
    describe,
    make_probe,
    set_threads,
    start,
)
from rekd_hloc.processor import num_cores

START = "start one by `dask scheduler` and `dask worker HOST:8786`"
WAIT_S = 10
"""For the scheduler, and for a first worker."""
ANY_SIZE = {"distributed.admin.large-graph-warning-threshold": "16 GiB"}
"""A photo with its call is no graph, and no reason to warn."""

_lock = threading.Lock()
_setups: dict[str, Setup] = {}
_runs: dict[str, Callable[..., Outcome]] = {}


class DaskEngine:
    """The workers of a scheduler.

    Args:
        address: of the scheduler, ``HOST:PORT``, with or without ``tcp://``.
        num_workers: calls to have on them at once, at most; None takes all their threads.
        device: of the workers; ``auto`` is what each has.

    Raises:
        ClusterError: there is no scheduler, or it has no worker.
        WorkerRefusedError: a worker has no rekd_hloc, or another version.
    """

    shares_files = False

    def __init__(self, address: str, num_workers: int | None = None, device: str = "auto") -> None:
        check_reachable("Dask scheduler", address.removeprefix("tcp://"), START)
        self._address = address
        self._device = device
        try:
            self._client = distributed.Client(address, timeout=WAIT_S, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            reason = " ".join(str(error).split())
            raise ClusterError(f"no Dask scheduler at {address} ({reason}); {START}") from error
        try:
            self._client.wait_for_workers(1, timeout=WAIT_S)
        except TimeoutError as error:
            self.close()
            raise ClusterError(f"the Dask scheduler at {address} has no worker; {START}") from error
        self._check_workers()
        threads = sum(self._client.nthreads().values())
        self.num_workers = threads if num_workers is None else min(threads, num_workers)

    def open_pool(self, job: Job, num_calls: int) -> "_DaskPool":
        """Tell all workers of a job; see :class:`rekd_hloc.cluster.engine.Engine`."""
        setup = Setup(job, describe(), self._device)
        return _DaskPool(self._client, self._address, setup, self.num_workers)

    def share(self, value: Any) -> Any:
        """Return the value itself."""
        return value

    def close(self) -> None:
        """Leave the cluster, which goes on."""
        self._client.close(timeout=WAIT_S)

    def _check_workers(self) -> None:
        for found in self._client.run(make_probe()).values():
            check_identity(describe(), found)


class _DaskPool:
    """Workers that know a job, which each loads when its first call comes."""

    def __init__(self, client: Any, address: str, setup: Setup, num_workers: int) -> None:
        self.num_workers = num_workers
        self._client = client
        self._address = address
        self._key = f"rekd-hloc-{uuid.uuid4().hex}"
        self._running: set[Any] = set()
        client.register_plugin(_SetupPlugin(self._key, setup), name=self._key)

    def submit(self, call: Call) -> Future[Outcome]:
        """Do a call on any worker; see :class:`rekd_hloc.cluster.engine.Pool`."""
        future: Future[Outcome] = Future()
        with dask.config.set(ANY_SIZE):
            theirs = self._client.submit(
                _run, self._key, call.payload, *call.shared, pure=False, retries=0
            )
        self._running.add(theirs)
        theirs.add_done_callback(lambda done: self._finish(done, future))
        return future

    def close(self) -> None:
        """Give up what runs, and let workers forget the job."""
        running, self._running = self._running, set()
        if self._client.status != "running":
            return
        if running:
            self._client.cancel(list(running), force=True)
        self._client.unregister_worker_plugin(self._key)

    def _finish(self, done: Any, future: Future[Outcome]) -> None:
        """Tell of a call that has ended, in whichever way."""
        self._running.discard(done)
        try:
            future.set_result(done.result())
        except distributed.KilledWorker as error:
            num_deaths = int(error.allowed_failures) + 1
            future.set_exception(WorkerDiedError("Dask lost them", num_deaths))
        except BaseException as error:  # also CancelledError, which is no Exception everywhere
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            lost = f"lost the Dask cluster at {self._address} ({reason}); give the command again"
            future.set_exception(ClusterError(lost))


class _SetupPlugin(distributed.WorkerPlugin):  # type: ignore[misc]
    """Tells a job to each worker, and to those that come later."""

    def __init__(self, key: str, setup: Setup) -> None:
        self._key = key
        self._setup = setup

    def setup(self, worker: Any) -> None:
        """Remember the job; it is loaded when its first call comes."""
        _setups[self._key] = self._setup

    def teardown(self, worker: Any) -> None:
        """Forget it."""
        _setups.pop(self._key, None)
        _runs.pop(self._key, None)


def _run(key: str, payload: Any, *shared: Any) -> Outcome:
    """Do a call in a thread of a worker."""
    threads = max(1, distributed.get_worker().state.nthreads)
    with _lock:
        if key not in _runs:
            try:
                _runs[key] = start(_setups[key])
            except Exception as error:
                return Outcome(error=error)
    set_threads(max(1, num_cores() // threads))
    return _runs[key](payload, *shared)
