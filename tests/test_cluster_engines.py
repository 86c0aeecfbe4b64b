"""Ray and Dask as they are: workers are killed, nodes are apart, and the files are the same.

These run where the extra ``cluster`` is installed.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import h5py
import psutil
import pytest

from rekd_hloc.sfm.extraction import extract_images
from tests.helpers import ROOT, textured_image
from tests.sift_extractor import SiftExtractor

pytestmark = pytest.mark.slow

NUM_PHOTOS = 200
SECONDS = 0.1
"""That a photo takes at least, so that kills meet workers at work."""
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def require(package):
    """Skip without a package, which is not imported here: it would leave warnings and threads."""
    done = subprocess.run(
        [sys.executable, "-c", f"import {package}"], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"{package} is not installed")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for seed in range(NUM_PHOTOS):
        assert cv2.imwrite(str(folder / f"{seed:02}.png"), textured_image(72, 96, seed=seed))
    (folder / "damaged.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def expected(images, tmp_path_factory):
    path = tmp_path_factory.mktemp("expected") / "one.h5"
    extract_images(SiftExtractor(), images, path)
    return arrays_of(path)


def start_driver(cluster, images, out, seconds=SECONDS):
    command = [sys.executable, "-m", "tests.cluster_driver", cluster, str(images), str(out)]
    return subprocess.Popen(
        [*command, str(seconds)], cwd=ROOT, env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def end(driver):
    driver.kill()
    driver.communicate()


def finish(driver, images, again=None):
    """Wait for a driver; its summary must be that of all photos.

    A photo on which the test has killed three workers is given up, as it should be; then the same
    run is given again.
    """
    output, errors = driver.communicate(timeout=900)
    assert driver.returncode == 0, errors
    summary = json.loads(output.splitlines()[-1])
    reason = summary["skipped"].pop("damaged.png")
    assert str(images / "damaged.png") in reason
    assert all("workers died on it" in reason for reason in summary["skipped"].values())
    assert len(summary["names"]) + len(summary["skipped"]) == NUM_PHOTOS
    if summary["skipped"]:
        assert again is not None, summary["skipped"]
        finish(again(), images)


def arrays_of(path):
    """All datasets and attributes of a file, by their names."""
    found = {}

    def take(name, item):
        found[name] = {key: str(value) for key, value in item.attrs.items()}
        if isinstance(item, h5py.Dataset):
            found[f"{name}[]"] = item[()].tobytes()

    with h5py.File(path) as file:
        file.visititems(take)
    return found


def kill_some(driver, find_workers, number, seed=0):
    """Kill workers at random moments, so many of them or until the run is over; return how many."""
    moments, num_killed = random.Random(seed), 0
    while num_killed < number and driver.poll() is None:
        workers = find_workers()
        if not workers:
            time.sleep(0.1)
            continue
        time.sleep(moments.uniform(0, 1))
        with suppress(psutil.NoSuchProcess):
            moments.choice(workers).kill()
            num_killed += 1
            time.sleep(0.2)
    return num_killed


def actors_of(process):
    """Processes below one in which Ray's actors are at work; those that start are left alone."""

    def find():
        found = []
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, IndexError):
                if child.cmdline()[0].startswith("ray::RekdWorker.run"):
                    found.append(child)
        return found

    return find


@pytest.mark.parametrize("num_kills", [1, 20])
def test_actors_of_ray_are_killed_and_replaced(images, expected, tmp_path, num_kills):
    require("ray")
    out = tmp_path / "f.h5"
    driver = start_driver("ray:local", images, out)
    try:
        killed = kill_some(driver, actors_of(driver), num_kills)
        finish(driver, images, lambda: start_driver("local", images, out))
    finally:
        end(driver)
    assert killed == num_kills
    assert arrays_of(out) == expected


def test_an_interrupted_run_leaves_no_process_and_goes_on(images, expected, tmp_path):
    require("ray")
    out = tmp_path / "f.h5"
    driver = start_driver("ray:local", images, out, 1)
    try:
        while not actors_of(driver)():
            assert driver.poll() is None, driver.stderr.read()
            time.sleep(0.2)
        time.sleep(5)
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGINT)
        driver.communicate(timeout=60)
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive
    finally:
        end(driver)
    again = start_driver("local", images, out, 0)
    finish(again, images)
    assert arrays_of(out) == expected


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def own_address():
    """The address of this machine that Ray takes, which is none of loopback where there is one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 80))  # sends nothing
        return probe.getsockname()[0]
    return "127.0.0.1"


@pytest.fixture
def homes():
    """A folder with a short path, since Ray's sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="n"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def programs(*commands, folder, pause=0.0):
    """Run programs, each in a folder of its own, and end them with their children."""
    running = []
    try:
        for number, command in enumerate(commands):
            home = folder / f"node{number}"
            home.mkdir()
            environment = {**ENVIRONMENT, "TMPDIR": str(home)}
            with (home / "log.txt").open("w") as log:
                process = subprocess.Popen(
                    [sys.executable, *command], cwd=home, env=environment, stdout=log, stderr=log
                )
            running.append(process)
            time.sleep(pause)
        yield running
    finally:
        for process in running:
            family = [psutil.Process(process.pid)] if process.poll() is None else []
            family += [child for parent in family for child in parent.children(recursive=True)]
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            process.wait()


def wait_for_port(port):
    for _ in range(300):
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.2)
    raise TimeoutError(port)


def test_two_nodes_of_ray(images, expected, tmp_path, homes):
    require("ray")
    port, out = free_port(), tmp_path / "f.h5"
    start = ["-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
    head = [*start, "--head", f"--port={port}", "--include-dashboard=false"]
    address = f"{own_address()}:{port}"
    node = [*start, f"--address={address}"]
    with programs(head, node, folder=homes, pause=20) as nodes:
        driver = start_driver(f"ray:{address}", images, out)
        try:
            both = [False, False]
            while driver.poll() is None and not all(both):
                both = [both[n] or bool(actors_of(node)()) for n, node in enumerate(nodes)]
                time.sleep(0.1)
            killed = kill_some(driver, actors_of(nodes[1]), 1)
            finish(driver, images)
        finally:
            end(driver)
    assert all(both)
    assert killed == 1
    assert arrays_of(out) == expected


def test_dask_with_a_worker_that_is_killed(images, expected, tmp_path):
    require("distributed")
    port, out = free_port(), tmp_path / "f.h5"
    scheduler = ["-m", "dask", "scheduler", "--host", "127.0.0.1", f"--port={port}"]
    worker = ["-m", "dask", "worker", f"tcp://127.0.0.1:{port}", "--nworkers=1", "--nthreads=1"]
    commands = ([*scheduler, "--no-dashboard"], *[[*worker, "--no-dashboard"]] * 2)
    with programs(*commands, folder=tmp_path) as running:
        wait_for_port(port)
        driver = start_driver(f"dask:127.0.0.1:{port}", images, out)

        def find():
            nannies = [psutil.Process(nanny.pid) for nanny in running[1:]]
            children = [child for nanny in nannies for child in nanny.children()]
            return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

        try:
            time.sleep(8)
            killed = kill_some(driver, find, 2)
            finish(driver, images)
        finally:
            end(driver)
    assert killed == 2
    assert arrays_of(out) == expected
