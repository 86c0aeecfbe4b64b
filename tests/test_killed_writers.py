"""A writer that is killed loses nothing that it reported."""

import random
import shutil
import signal
import subprocess
import sys
import time

import h5py
import pytest

from rekd_hloc import files as files_module
from rekd_hloc.storage import hdf5
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.storage.hdf5 import Hdf5File
from rekd_hloc.storage.journal import Journal
from tests.helpers import ROOT, random_features
from tests.store_helpers import (
    MADE_WITH,
    files,
    no_fsync,  # noqa: F401
)

WRITER = """
import itertools, sys
from pathlib import Path
import numpy as np
from rekd_hloc.storage.hdf5 import Hdf5File
from rekd_hloc.storage.journal import Record

path, first = Path(sys.argv[1]), int(sys.argv[2])
for start in itertools.count(first, 4):
    file = Hdf5File.resume(path, {"made": "here"})
    for number in range(start, start + 4):
        values = np.full(20_000 + number, number)
        file.append(Record(f"sub/{number}.jpg", {"keypoints": values, "last": values[:9]}))
        print(number, flush=True)
    file.close()
"""


def test_a_killed_writer_loses_nothing_that_it_reported(tmp_path):
    """SIGKILL at a random moment of appending or closing, several times, going on each time."""
    path, rng, done = tmp_path / "f.h5", random.Random(0), -1
    for _ in range(2):
        command = [sys.executable, "-c", WRITER, str(path), str(done + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as writer:
            for _ in range(rng.randint(1, 9)):
                done = int(writer.stdout.readline())
            time.sleep(rng.uniform(0, 0.02))
            writer.send_signal(signal.SIGKILL)
            done = max([done, *map(int, writer.stdout.read().split())])
        if path.exists():
            with h5py.File(path, "r") as merged:
                assert all(set(group) == {"keypoints", "last"} for group in merged["sub"].values())
        file = Hdf5File.resume(path, {"made": "here"})
        found = file.groups("keypoints")
        assert {f"sub/{number}.jpg" for number in range(done + 1)} <= set(found)
        for group in found:
            number = int(group[4:-4])
            record = file.read(group, ("keypoints", "last"))
            assert record.arrays["keypoints"].tolist() == [number] * (20_000 + number)
            assert record.arrays["last"].tolist() == [number] * 9
        file.release()
    with_all = Hdf5File.resume(path, {"made": "here"})
    with_all.close()
    assert files(tmp_path) == ["f.h5"]


@pytest.mark.parametrize("moment", ["write", "rename", "remove"])
def test_a_kill_at_each_step_of_closing(moment, tmp_path, monkeypatch):
    path = tmp_path / "f.h5"
    with FeatureStore.resume(path, MADE_WITH) as store:
        store.write("a.jpg", random_features(3))
    store = FeatureStore.resume(path, MADE_WITH)
    store.write("b.jpg", random_features(4))
    folder = tmp_path / "after_kill"

    def copy(*_):
        if not folder.exists():  # the state of the disk at this moment is what a kill leaves
            folder.mkdir()
            for file in tmp_path.glob("f.h5*"):
                shutil.copy(file, folder)

    steps = {"write": (hdf5, "write_group"), "rename": (files_module, "sync")}
    place, name = steps.get(moment, (Journal, "remove"))
    real = getattr(place, name)
    monkeypatch.setattr(place, name, lambda *args: (copy(), real(*args))[1])
    store.close()
    left = {"f.h5", "f.h5.journal"} | ({"f.h5.rekd.tmp"} if moment != "remove" else set())
    assert {file.name for file in folder.iterdir()} == left
    with FeatureStore.resume(folder / "f.h5", MADE_WITH) as resumed:
        assert resumed.names() == ["a.jpg", "b.jpg"]
        assert [len(resumed.read(name)) for name in resumed.names()] == [3, 4]
    assert files(folder) == ["f.h5"]
