"""What runs on a worker: it says what it is, loads its job once, and does call after call."""

import hashlib
import os
import pickle
import platform
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import rekd_hloc

POISONED = ("cuda error", "device-side assert", "illegal memory access", "ecc error")
"""What torch says, in lower case, where a device is of no more use to the process that met it."""
EXIT_POISONED = 70
"""Exit status of a worker that ends itself so that another takes its place."""


class WorkerDiedError(RuntimeError):
    """A worker ended before the call was done: it was killed, or its machine went away.

    Attributes:
        num_deaths: workers that ended so.
    """

    def __init__(self, reason: str, num_deaths: int = 1) -> None:
        super().__init__(reason)
        self.num_deaths = num_deaths


class WorkerRefusedError(ValueError):
    """A worker cannot give what this process would; the message names both and the remedy."""


@dataclass(frozen=True)
class Identity:
    """Tell one installation of the package on one machine from others.

    Attributes:
        host: name of the machine.
        version: of the package.
        source: twelve digits for the package's Python files.
        torch: version of torch.
    """

    host: str
    version: str
    source: str
    torch: str


class Job(Protocol):
    """What all calls of one stage have in common; it goes to each worker once, by pickle."""

    def open(self, device: str) -> Callable[..., Any]:
        """Load models onto a device, and return the function that does a call.

        Raises:
            WorkerRefusedError: what is loaded here is not what the driver has.
        """


@dataclass(frozen=True)
class Setup:
    """Tell a worker what it is for.

    Attributes:
        job: to load.
        identity: of the driver.
        device: torch device of the worker, or ``auto``.
        num_threads: of torch and OpenCV; None leaves them.
    """

    job: Job
    identity: Identity
    device: str = "auto"
    num_threads: int | None = None


@dataclass(frozen=True)
class Call:
    """One piece of work.

    Attributes:
        label: names it in messages.
        payload: first argument of the job's function.
        shared: its further arguments, each as the engine's ``share`` returned it.
    """

    label: str
    payload: Any
    shared: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a call gave: a value, or the error that it raised."""

    value: Any = None
    error: Exception | None = None

    def unwrap(self) -> Any:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value


@cache
def describe() -> Identity:
    """Return what this process runs."""
    import torch

    digest = hashlib.sha256()
    folder = Path(rekd_hloc.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    host = socket.gethostname() or platform.node()
    return Identity(host, rekd_hloc.__version__, digest.hexdigest()[:12], torch.__version__)


def make_probe() -> Callable[[], Identity | str]:
    """Return a function that tells what a worker runs, or why it cannot do this package's work.

    It is made here so that an engine sends its code and not its name: then it also runs where the
    package is missing.
    """

    def probe() -> Identity | str:
        import socket

        try:
            from rekd_hloc.cluster.worker import describe
        except ImportError as error:
            return (
                f"worker on {socket.gethostname()} has no rekd_hloc of this version "
                f"({error}); install the same there as on this machine"
            )
        return describe()

    return probe


def check_identity(driver: Identity, worker: Identity | str) -> None:
    """Refuse a worker without the package, or with another version of it.

    Args:
        driver: what this process runs.
        worker: what the function of :func:`make_probe` gave there.

    Raises:
        WorkerRefusedError: it has none, or its version or its Python files are others.
    """
    if isinstance(worker, str):
        raise WorkerRefusedError(worker)
    if (driver.version, driver.source) != (worker.version, worker.source):
        raise WorkerRefusedError(
            f"worker on {worker.host} has rekd_hloc {worker.version} (source {worker.source}), "
            f"this machine has {driver.version} (source {driver.source}); install the same there"
        )


def start(setup: Setup) -> Callable[..., Outcome]:
    """Load a job in this process; return what does its calls.

    Raises:
        WorkerRefusedError: this process is not what the driver needs.
    """
    check_identity(setup.identity, describe())
    set_threads(setup.num_threads)
    function = setup.job.open(setup.device)

    def run(payload: Any, *shared: Any) -> Outcome:
        try:
            return Outcome(function(payload, *shared))
        except Exception as error:
            leave_if_poisoned(error)
            return Outcome(error=_portable(error))

    return run


def set_threads(count: int | None) -> None:
    """Compute with so many threads in this process; None leaves their number."""
    if count is None:
        return
    from rekd_hloc.devices import use_threads

    use_threads(count)


def leave_if_poisoned(error: Exception) -> None:
    """End the process where its device cannot go on: the next one starts with a fresh one."""
    if isinstance(error, RuntimeError) and any(words in str(error).lower() for words in POISONED):
        os._exit(EXIT_POISONED)


def _portable(error: Exception) -> Exception:
    """Return the error, or one that says the same and survives pickling."""
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # a class may refuse in any way
        copy = None
    if isinstance(copy, Exception) and str(copy) == str(error):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")
