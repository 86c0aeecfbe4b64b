"""Workers that are processes of this machine, each with its share of the cores or a GPU of its own.

A pool of ``concurrent.futures`` breaks as a whole when one of its processes dies, and does not say
what that process did. Here each process has a pipe of its own, so one alone is replaced.
"""

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

import psutil

from rekd_hloc.cluster.slots import SlotPool
from rekd_hloc.cluster.worker import (
    Call,
    Job,
    Outcome,
    Setup,
    WorkerDiedError,
    describe,
    start,
)
from rekd_hloc.devices import choose_device
from rekd_hloc.processor import num_cores, reuse_memory

WORKER_BYTES = 2 << 30
"""Memory that a worker may take: photos of 50 megapixels, and the network at 1600 px."""


class LocalEngine:
    """Processes of this machine.

    Args:
        num_workers: how many; None takes one for each GPU, or for each core that has 2 GiB of
            memory.
        device: of the workers; ``auto`` spreads them over the GPUs where there are any.
    """

    shares_files = True

    def __init__(self, num_workers: int | None = None, device: str = "auto") -> None:
        chosen = choose_device(device)
        num_devices = 1
        if chosen.type == "cuda" and device in ("auto", "cuda"):
            import torch

            num_devices = torch.cuda.device_count()
        self._devices = [str(chosen)]
        if num_devices > 1:
            self._devices = [f"cuda:{number}" for number in range(num_devices)]
        if num_workers is None:
            num_workers = num_devices if chosen.type != "cpu" else _fitting_processes()
        self.num_workers = num_workers
        self._context = multiprocessing.get_context("spawn")

    def open_pool(self, job: Job, num_calls: int) -> SlotPool:
        """Start processes for a job; see :class:`rekd_hloc.cluster.engine.Engine`."""
        count = max(1, min(self.num_workers, num_calls))
        num_threads = max(1, num_cores() // count)

        def start_process(number: int) -> _LocalWorker:
            device = self._devices[number % len(self._devices)]
            return _LocalWorker(self._context, Setup(job, describe(), device, num_threads))

        return SlotPool(start_process, count)

    def share(self, value: Any) -> Any:
        """Return the value itself."""
        return value

    def close(self) -> None:
        """Nothing is left to end."""


class _LocalWorker:
    """A process with a pipe to it."""

    def __init__(self, context: SpawnContext, setup: Setup) -> None:
        self._pipe, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()  # here, so that the pipe ends with the process
        try:
            self._exchange(setup).unwrap()
        except BaseException:
            self.close()
            raise

    def run(self, call: Call) -> Outcome:
        """Do a call; see :class:`rekd_hloc.cluster.slots.Worker`."""
        return self._exchange((call.payload, *call.shared))

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()

    def _exchange(self, message: Any) -> Outcome:
        try:
            self._pipe.send(message)
            outcome: Outcome = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(5)
            raise WorkerDiedError(_explain_end(self._process.exitcode)) from error
        return outcome


def _serve(pipe: Connection) -> None:
    """Be a worker: first a setup, then calls, until the driver ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal
    reuse_memory(os.environ)
    try:
        try:
            run = start(pipe.recv())
        except Exception as error:
            pipe.send(Outcome(error=error))
            return
        pipe.send(Outcome())
        while True:
            pipe.send(run(*pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _explain_end(status: int | None) -> str:
    if status == -signal.SIGKILL:
        return "its process was killed, as by a shortage of memory"
    if status is not None and status < 0:
        return f"its process was ended by signal {-status}"
    return f"its process ended with status {status}"


def _fitting_processes() -> int:
    return max(1, min(num_cores(), int(psutil.virtual_memory().available // WORKER_BYTES)))
