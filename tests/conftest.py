"""What holds for every test: one thread each, and how many examples a property is tried on."""

import os
import shutil

os.environ.setdefault("OMP_NUM_THREADS", "1")  # parallel workers must not fight for cores

import pytest
from hypothesis import settings

settings.register_profile("fast", max_examples=20, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=300, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """``images`` and ``reference`` of the corner scene; only to be read."""
    from tests.corner_reconstruction import NUM_VIEWS
    from tests.corner_scene import make_photos

    folder = tmp_path_factory.mktemp("photos")
    make_photos(folder, NUM_VIEWS)
    return folder


@pytest.fixture(scope="session")
def finished(photos, tmp_path_factory):
    """Output folder and report of a reconstruction; only to be copied or read."""
    from tests.corner_reconstruction import run

    output = tmp_path_factory.mktemp("finished") / "new" / "out"
    return output, run(photos, output)


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished output that keeps the files' times."""
    return shutil.copytree(finished[0], tmp_path / "out")
