"""``python -m evaluation.speed``: threads wait as those of ``rekd-hloc`` do, unless told how."""

import os
import sys
from collections.abc import Sequence

from rekd_hloc.processor import reuse_memory, wait_passively


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; torch is imported here, once it is said how its threads wait."""
    wait_passively(os.environ)
    reuse_memory(os.environ)
    from evaluation.speed.benchmark import main as run_benchmark

    return run_benchmark(argv)


if __name__ == "__main__":
    sys.exit(main())
