"""Busy neighbours: processes that keep a core each occupied, as on a shared server."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

BUSY = "while True: pass"


@contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    """Run so many processes that do nothing but compute, for as long as the context lasts."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
