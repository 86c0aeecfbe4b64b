"""How many cores the program takes, and how its threads wait."""

import os
import subprocess
import sys

import cv2
import pytest
import torch

from rekd_hloc import processor
from rekd_hloc.cli import main as program
from rekd_hloc.devices import use_threads
from rekd_hloc.processor import PASSIVE, cpu_quota, limit_cores, num_cores, wait_passively


@pytest.fixture(autouse=True)
def no_limit(monkeypatch):
    threads, of_opencv = torch.get_num_threads(), cv2.getNumThreads()
    monkeypatch.setattr(processor, "_limit", [])
    yield
    torch.set_num_threads(threads)
    cv2.setNumThreads(of_opencv)


def groups(tmp_path, files, own="0::/shop/till\n"):
    """A machine's control groups: contents by path."""
    for path, text in files.items():
        target = tmp_path / "groups" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    (tmp_path / "own").write_text(own)
    return cpu_quota(tmp_path / "groups", tmp_path / "own")


@pytest.mark.parametrize(("files", "quota"), [
    ({"cpu.max": "150000 100000\n"}, 1.5),
    ({"cpu.max": "max 100000\n"}, None),
    ({"cpu.max": "max 100000", "shop/cpu.max": "50000 100000"}, 0.5),
    ({"shop/cpu.max": "300000 100000", "shop/till/cpu.max": "200000 100000"}, 2),
    ({"cpu.max": "nonsense"}, None),
    ({}, None),
])  # fmt: skip
def test_the_least_quota_of_the_groups_above_counts(tmp_path, files, quota):
    assert groups(tmp_path, files) == quota


def test_groups_of_version_1(tmp_path):
    files = {
        "cpu/shop/cpu.cfs_quota_us": "250000\n", "cpu/shop/cpu.cfs_period_us": "100000\n",
        "cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n",
    }  # fmt: skip
    assert groups(tmp_path, files, "4:memory:/other\n3:cpu,cpuacct:/shop\n") == 2.5


def test_without_groups_there_is_no_quota(tmp_path):
    assert cpu_quota(tmp_path / "none", tmp_path / "none") is None


def test_a_quota_and_a_limit_lower_the_number_of_cores(monkeypatch):
    there = num_cores()
    monkeypatch.setattr(processor, "cpu_quota", lambda: 0.5)
    assert num_cores() == 1
    monkeypatch.setattr(processor, "cpu_quota", lambda: there + 7.5)
    assert num_cores() == there
    limit_cores(1)
    assert num_cores() == 1
    limit_cores(there + 5)
    assert num_cores() == there


def test_threads_asked_for_are_those_of_torch_and_opencv():
    use_threads(3)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == (3, 3)
    torch.set_num_threads(1)
    use_threads(None)
    assert torch.get_num_threads() == 1  # as OMP_NUM_THREADS=1 has it


@pytest.mark.parametrize("command", ["extract", "match", "refine", "reconstruct"])
def test_the_option_is_taken_and_a_wrong_value_named(command, tmp_path, capsys):
    places = [str(tmp_path / str(number)) for number in range(4 if command == "refine" else 2)]
    assert program.main([command, *places, "--threads", "0"]) == 2
    assert "threads must be at least 1, got 0" in capsys.readouterr().err
    assert program.main([command, *places, "--threads", "2"]) == 2  # nothing is there
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("given", "found"), [
    ({}, PASSIVE),
    ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ({"GOMP_SPINCOUNT": "9"}, {"GOMP_SPINCOUNT": "9"}),
])  # fmt: skip
def test_threads_wait_asleep_unless_the_user_says_how(given, found):
    environment = dict(given)
    wait_passively(environment)
    assert environment == found


def test_the_program_sets_it_before_torch_is_there_and_the_library_never():
    code = (
        "import os, sys; import rekd_hloc; from rekd_hloc import __main__ as m; "
        "import rekd_hloc.processor; print('OMP_WAIT_POLICY' in os.environ); "
        "sys.argv[1:] = ['--version']; m.main(); "
        "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    free = {k: v for k, v in os.environ.items() if k not in (*PASSIVE, "GOMP_SPINCOUNT")}
    run = subprocess.run(
        [sys.executable, "-c", code], env=free, capture_output=True, text=True, check=True
    )
    lines = run.stdout.split("\n")
    assert lines[0] == "False"
    assert "PASSIVE False" in lines


PROGRAM = """
import os, resource, sys
from rekd_hloc.processor import reuse_memory
if sys.argv[1] == "reuse":
    reuse_memory(os.environ)
size = 24 << 20  # a variable: else the bytes are a constant of the program
b"x" * size
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    b"x" * size  # 24 MiB, in 6144 pages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_memory_is_used_again_unless_the_environment_says_how():
    def pages(word, **environment):
        command = [sys.executable, "-c", PROGRAM, word]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**clean, **environment}
        )
        return int(done.stdout)

    always_mapped = {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    assert pages("reuse") < 1000
    assert pages("reuse", **always_mapped) > 100_000
