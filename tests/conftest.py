"""What holds for every test: one thread each, so that parallel workers do not fight for cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
