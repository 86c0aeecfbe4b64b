"""Functions timed in turns, so that another job on the machine disturbs all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tqdm import tqdm


@dataclass(frozen=True)
class Timing:
    """What one function took.

    Attributes:
        median_s, least_s: seconds by the clock.
        cpu_s: seconds of all processor cores, the median; waiting threads that spin count too.
        keypoints: that it found.
    """

    median_s: float
    least_s: float
    cpu_s: float
    keypoints: int


def measure(
    runs: Mapping[str, Callable[[], int]], repeats: int, *, label: str = "speed"
) -> dict[str, Timing]:
    """Time every function ``repeats`` times, in turns.

    Args:
        runs: functions that do the work in this process and return the number of keypoints.
        repeats: turns; the first, which warms up, is not counted.
        label: of the progress bar.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    counts: dict[str, int] = {}
    for turn in tqdm(range(repeats + 1), label, unit="turn", disable=None):
        for name, run in runs.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            counts[name] = run()
            if turn > 0:
                seconds[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - cpu_start)
    return {
        name: Timing(
            median_s=statistics.median(seconds[name]),
            least_s=min(seconds[name]),
            cpu_s=statistics.median(cpu[name]),
            keypoints=counts[name],
        )
        for name in runs
    }
