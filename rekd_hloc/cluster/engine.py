"""What an engine is: it opens a pool of workers for one job, and does calls on them.

To add one, write a class that fits :class:`Engine` and one line in
:data:`rekd_hloc.cluster.cluster.ENGINES`.
"""

from concurrent.futures import Future
from typing import Any, Protocol

from rekd_hloc.cluster.worker import Call, Job, Outcome


class ClusterError(ValueError):
    """An engine that is not installed, cannot be reached, or lost; the message says what to do."""


class Pool(Protocol):
    """Workers that have loaded one job."""

    @property
    def num_workers(self) -> int:
        """Return how many calls run at once."""

    def submit(self, call: Call) -> Future[Outcome]:
        """Do a call on any worker.

        The future's exception is a :class:`rekd_hloc.cluster.worker.WorkerDiedError` if the worker
        died during it, and any other if there are no workers to be had.
        """

    def close(self) -> None:
        """End all workers at once; what runs is given up."""


class Engine(Protocol):
    """Where workers come from."""

    @property
    def num_workers(self) -> int:
        """Return how many workers there are, as far as is known."""

    @property
    def shares_files(self) -> bool:
        """Say whether workers see this process's files under the same paths."""

    def open_pool(self, job: Job, num_calls: int) -> Pool:
        """Start workers for a job; no more than there are calls.

        Raises:
            ClusterError: there are none to be had.
        """

    def share(self, value: Any) -> Any:
        """Return what stands for a value in the arguments of several calls."""

    def close(self) -> None:
        """Let go of the engine; of its cluster too if this process started it."""
