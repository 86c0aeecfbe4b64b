"""Workers that are actors of Ray, on this machine or on a cluster of many.

Needs the extra ``cluster``. GPUs give one worker each; without any, each CPU does that has 2 GiB of
Ray's memory. Features go into Ray's object store, each image once.
"""

import contextlib
import logging
import math
import os
import pickle
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rekd_hloc.cluster.engine import ClusterError
from rekd_hloc.cluster.local_engine import WORKER_BYTES
from rekd_hloc.cluster.reachability import check_reachable
from rekd_hloc.cluster.slots import SlotPool
from rekd_hloc.cluster.worker import (
    Call,
    Identity,
    Job,
    Outcome,
    Setup,
    WorkerDiedError,
    check_identity,
    describe,
    make_probe,
)

logger = logging.getLogger(__name__)

REMEDY = "Ray is not installed; pip install 'rekd-hloc[cluster]'"
START = "start one by `ray start --head`, or name another by --cluster ray:HOST:PORT"
UNAUTHENTICATED = ("InvalidAuthToken", "AuthenticationError", "Unauthenticated")
"""In what Ray says to a driver without the cluster's token."""
WAIT_S = 60.0
"""For a free place in the cluster, before a warning says what is waited for."""


class RayEngine:
    """Actors of Ray.

    Args:
        address: ``HOST:PORT`` of its head as ``ray start`` shows it, for a machine that is a node
            itself; ``ray://HOST:10001`` for one that is not. None takes the cluster that runs here,
            or starts one for this run.
        num_workers: how many; more than there are GPUs share them.
        device: ``auto`` takes GPUs where there are any.

    Raises:
        ClusterError: Ray is not installed, or there is none at the address.
    """

    shares_files = False

    def __init__(
        self, address: str | None, num_workers: int | None = None, device: str = "auto"
    ) -> None:
        os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # a thread that outlives the run
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to Ray's makers
        try:
            import ray
        except ImportError as error:
            raise ClusterError(REMEDY) from error
        self._ray: Any = ray
        if address is not None and address not in ("auto", "local"):
            check_reachable("Ray", address.removeprefix("ray://"), START)
        self._connect(address)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._plan = _plan_workers(nodes, num_workers, device)
        self.num_workers = self._plan.num_workers
        self._device = device if device != "cpu" and self._plan.num_gpus else "cpu"

    def open_pool(self, job: Job, num_calls: int) -> SlotPool:
        """Start actors for a job; see :class:`rekd_hloc.cluster.engine.Engine`."""
        plan = self._plan
        threads = max(1, int(plan.num_cpus))
        setup = Setup(job, describe(), self._device, threads)
        stored = self._ray.put(setup)
        actors = _actor_class(self._ray).options(
            num_cpus=plan.num_cpus, num_gpus=plan.num_gpus,
            scheduling_strategy="SPREAD", max_restarts=0, max_task_retries=0,
        )  # fmt: skip

        def start_actor(number: int) -> _RayWorker:
            return _RayWorker(self._ray, actors.remote(), stored, setup.identity)

        return SlotPool(start_actor, max(1, min(plan.num_workers, num_calls)))

    def share(self, value: Any) -> Any:
        """Put a value into Ray's object store."""
        return self._ray.put(value)

    def close(self) -> None:
        """Leave the cluster; one that this process started ends."""
        self._ray.shutdown()

    def _connect(self, address: str | None) -> None:
        try:
            self._join(address)
        except Exception as error:  # Ray raises plain ones, too
            is_gone = isinstance(error, ConnectionError) and "RAY_ADDRESS" not in os.environ
            if address is not None or not is_gone:
                raise _explain(error, address) from error
            logger.warning("the Ray that ran on this machine is gone; one is started for this run")
            try:
                self._join("local")
            except Exception as again:
                raise _explain(again, "local") from again

    def _join(self, address: str | None) -> None:
        with _own_signals():
            self._ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR,
                include_dashboard=False if address == "local" else None,
            )  # fmt: skip


def _explain(error: Exception, address: str | None) -> ClusterError:
    """Return what to tell of a Ray that cannot be joined."""
    place = f"Ray at {address}" if address else "Ray on this machine"
    if any(word in str(error) for word in UNAUTHENTICATED):
        return ClusterError(
            f"{place} wants a token; set RAY_AUTH_MODE=token, and give all machines the "
            "token of ~/.ray/auth_token or RAY_AUTH_TOKEN"
        )
    return ClusterError(f"cannot join {place}: {_last_line(error)}")


class _RayWorker:
    """An actor, which has loaded a job."""

    def __init__(self, ray: Any, actor: Any, setup: Any, driver: Identity) -> None:
        self._ray = ray
        self._actor = actor
        try:
            check_identity(driver, self._wait(actor.describe.remote(), is_starting=True))
            self._wait(actor.start.remote(setup)).unwrap()
        except BaseException:
            self.close()
            raise

    def run(self, call: Call) -> Outcome:
        """Do a call; see :class:`rekd_hloc.cluster.slots.Worker`."""
        pickled: bytes = self._wait(self._actor.run.remote(call.payload, *call.shared))
        outcome: Outcome = pickle.loads(pickled)
        return outcome

    def close(self) -> None:
        """Kill the actor."""
        with contextlib.suppress(Exception):  # Ray may be gone
            self._ray.kill(self._actor)

    def _wait(self, reference: Any, *, is_starting: bool = False) -> Any:
        errors = self._ray.exceptions
        died = (errors.RayActorError, errors.OutOfMemoryError, errors.WorkerCrashedError)
        try:
            if is_starting and not self._ray.wait([reference], timeout=WAIT_S)[0]:
                logger.warning("a worker waits for a free place in Ray; `ray status` shows them")
            return self._ray.get(reference)
        except died as error:
            raise WorkerDiedError(_first_line(error)) from error
        except errors.RayTaskError as error:
            raise ClusterError(f"a worker of Ray failed: {_last_line(error)}") from error
        except (errors.RaySystemError, errors.ObjectLostError, ConnectionError) as error:
            raise ClusterError(f"lost Ray: {_first_line(error)}; give the command again") from error


def _actor_class(ray: Any) -> Any:
    """Return the class of actors: made here, so that Ray sends its code instead of its name.

    A worker without rekd_hloc can then say so.
    """

    probe = make_probe()

    class RekdWorker:
        def describe(self) -> Any:
            return probe()

        def start(self, setup: Any) -> Any:
            from rekd_hloc.cluster.worker import Outcome, start

            try:
                self._run = start(setup)
            except Exception as error:
                return Outcome(error=error)
            return Outcome()

        def run(self, payload: Any, *shared: Any) -> bytes:
            import pickle

            # else Ray would give the driver arrays in its own memory, which may not be written
            return pickle.dumps(self._run(payload, *shared), protocol=5)

    return ray.remote(RekdWorker)


@dataclass(frozen=True)
class _Plan:
    """How many workers, and what each asks of Ray."""

    num_workers: int
    num_cpus: float
    num_gpus: float = 0


def _plan_workers(nodes: list[dict[str, float]], asked: int | None, device: str) -> _Plan:
    """Share the resources of nodes out among workers.

    Raises:
        ClusterError: the nodes have none.
    """
    gpus = sum(node.get("GPU", 0.0) for node in nodes) if device != "cpu" else 0.0
    if device not in ("auto", "cpu") and not gpus:
        raise ClusterError(f"no node of Ray has a GPU, and the device asked for is {device}")
    if gpus:
        count = asked or int(gpus)
        per_gpu = math.ceil(count / gpus)
        return _Plan(count, 1, math.floor(1e4 / per_gpu) / 1e4)  # as finely as Ray counts
    places = [
        int(min(node.get("CPU", 0.0), max(1, node.get("memory", 0.0) // WORKER_BYTES)))
        for node in nodes
    ]
    if asked is None:
        asked = sum(places)
        if not asked:
            raise ClusterError("no node of Ray has a CPU; start workers, or give --workers")
    cpus = sum(node.get("CPU", 0.0) for node in nodes)
    most = max((node.get("CPU", 0.0) for node in nodes), default=1.0)
    return _Plan(asked, max(1, min(most, cpus // asked)))


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's ways to end, which Ray replaces by its own."""
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.getsignal(kind) for kind in kinds}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # of a thread, where Ray replaces none
            for kind, handler in before.items():
                signal.signal(kind, handler)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
