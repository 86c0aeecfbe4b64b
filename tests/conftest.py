"""What holds for every test: one thread each, and how many examples a property is tried on."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # parallel workers must not fight for cores

from hypothesis import settings

settings.register_profile("fast", max_examples=20, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=300, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))
