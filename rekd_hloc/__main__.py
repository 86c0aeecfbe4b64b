"""``python -m rekd_hloc``: the command line ``rekd-hloc``, which Ctrl-C may end from the start."""

import os
import sys

from rekd_hloc.cli.interrupts import how_to_go_on, run_interruptibly
from rekd_hloc.processor import reuse_memory, wait_passively


def main() -> int:
    """Run the command line; what it needs is imported here, where a signal is met with a line."""

    wait_passively(os.environ)
    reuse_memory(os.environ)

    def run() -> int:
        from rekd_hloc.cli.main import main as run_commands

        return run_commands()

    return run_interruptibly(run, how_to_go_on(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
