"""The cores and the memory of this process: how many it may use, how its threads wait.

Nothing here imports torch, so that the program can set how threads wait before torch reads it.
Importing the library sets nothing; only the program ``rekd-hloc`` does.
"""

import ctypes
import math
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""How OpenMP's threads wait for work: asleep. By default they spin, which takes the cores from
every other process. The first is OpenMP's own, the second that of Intel's and LLVM's runtime."""
ALLOCATION = {-3: 1 << 30, -1: 1 << 30, -8: 1}
"""Options of glibc's ``mallopt``: what is smaller than 1 GiB is not mapped anew (M_MMAP_THRESHOLD),
up to 1 GiB of free memory is kept (M_TRIM_THRESHOLD), and all threads share it (M_ARENA_MAX)."""
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")

_limit: list[int] = []


def wait_passively(environment: MutableMapping[str, str]) -> None:
    """Let idle OpenMP threads sleep, unless the environment says how they wait."""
    if not any(name in environment for name in (*PASSIVE, "GOMP_SPINCOUNT")):
        environment.update(PASSIVE)


def reuse_memory(environment: Mapping[str, str]) -> None:
    """Let freed memory be used again, not given back to Linux, unless the environment says how.

    By default glibc maps large tensors anew each time, and the kernel fills them with zeros page by
    page: a tenth of the time of a photo. Other C libraries are left as they are.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in environment):
        return
    try:
        set_option = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # no glibc
        return
    for option, value in ALLOCATION.items():
        set_option(option, value)


def limit_cores(count: int) -> None:
    """Let :func:`num_cores` return at most so many from now on.

    Raises:
        ValueError: not positive.
    """
    if count < 1:
        raise ValueError(f"threads must be at least 1, got {count}")
    _limit[:] = [count]


def num_cores() -> int:
    """Return how many cores this process may use: affinity, a container's quota, and the limit."""
    if hasattr(os, "sched_getaffinity"):
        there = len(os.sched_getaffinity(0))
    else:
        there = os.cpu_count() or 1
    quota = cpu_quota()
    return min([there, *([] if quota is None else [max(1, math.ceil(quota))]), *_limit])


def cpu_quota(cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> float | None:
    """Return how many cores' time a Linux control group grants, as containers and servers use it.

    Args:
        cgroups: where the groups are mounted.
        own: file that names this process's group.

    Returns:
        The least quota of the group and those above it; None where there is no quota.
    """
    quotas = [_quota(folder) for folder in _groups(cgroups, own)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _groups(cgroups: Path, own: Path) -> list[Path]:
    """Return the folders of this process's group and of all above it, of version 2 and 1."""
    folders = [cgroups, cgroups / "cpu"]
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / "cpu" if controllers else cgroups
        folder = root / path.lstrip("/")
        while folder != root and root in folder.parents:
            folders.append(folder)
            folder = folder.parent
    return folders


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():  # version 2
            granted, period = (folder / "cpu.max").read_text().split()
        else:
            granted = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        return None if granted in ("max", "-1") else int(granted) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
