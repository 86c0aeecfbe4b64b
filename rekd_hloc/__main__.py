"""``python -m rekd_hloc``: the command line ``rekd-hloc``."""

import sys

from rekd_hloc.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
