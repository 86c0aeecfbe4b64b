"""A disk without room at every stage of a run: one line says so, and nothing finished is lost.

The disk is a small file system in memory, which only root may mount.
"""

import os
import shutil
import subprocess

import pytest

from tests.campaign_results import differences
from tests.corner_scene import make_photos
from tests.disk_stages import run
from tests.isolated import call

pytestmark = pytest.mark.slow
DISK_BYTES = 48 << 20
PAGE = 4096
"""Bytes that such a disk gives at a time."""
FILES = {
    "extract": (),
    "match": ("features.h5",),
    "database": ("features.h5", "matches.h5", "pairs.txt"),
    "model": ("features.h5", "matches.h5", "pairs.txt", "database.db", "database.json"),
    "page": (
        *("features.h5", "matches.h5", "pairs.txt", "database.db", "database.json"),
        *("sparse", "report.json"),
    ),
}
"""What is finished before each stage."""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    make_photos(folder, 6)
    return folder / "images"


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """The output of a run with room enough."""
    out = tmp_path_factory.mktemp("finished") / "out"
    run(images, out)
    return out


@pytest.fixture
def disk(tmp_path):
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk, room):
    """Leave so many bytes of the disk free."""
    status = os.statvfs(disk)
    with (disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(status.f_bavail * status.f_frsize - room, 1))


def snapshot(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def spoil(stage, room, images, finished, disk, function=None):
    """Run a stage with so much room: its outcome, and what was there and must still be."""
    out = disk / "out"
    out.mkdir()
    for name in FILES[stage]:
        copy = shutil.copytree if (finished / name).is_dir() else shutil.copy2
        copy(finished / name, out / name)
    before = snapshot(out)
    fill(disk, room)
    function = f"tests.disk_stages:{function or stage}"
    outcome = call(function, images, out, time_limit_s=60)
    for path, content in before.items():
        if path.suffix in (".h5", ".bin", ".txt"):
            assert path.read_bytes() == content, f"{path.name} was changed"
    if outcome.kind != "value":
        assert outcome.flaw(str(out)) is None
        assert "no space left" in outcome.message
    (disk / "filler").unlink()
    again = call(function, images, out, time_limit_s=60)
    assert again.kind == "value", again.message
    return outcome, out


def cases(*rooms_of_stages):
    found = []
    for stage, rooms in rooms_of_stages:
        for room in rooms:
            found.append(pytest.param(stage, room, id=f"{stage}-{room >> 10}K"))
    return found


@pytest.mark.parametrize(
    ("stage", "room"),
    cases(
        ("extract", (0, PAGE, 100 << 10, 600 << 10)),
        ("match", (0, PAGE, 20 << 10)),
        ("database", (0, PAGE, 200 << 10, 1 << 20)),
        ("model", (0, PAGE, 40 << 10)),
        ("page", (0, PAGE, 200 << 10)),
    ),
)
def test_a_stage_without_room(stage, room, images, finished, disk):
    function = "run" if stage in ("database", "model") else stage
    outcome, out = spoil(stage, room, images, finished, disk, function)
    assert outcome.kind == "error"
    if stage in ("database", "model"):
        differences(out, finished)


@pytest.mark.parametrize(
    "room", [n << 10 for n in (1500, 2000, 2400, 2600, 2800, 3000, 3500, 4500)]
)
def test_a_whole_run_with_any_room(room, images, finished, disk):
    """Wherever it ends, the end is one line, or a run that had room enough."""
    _, out = spoil("extract", room, images, finished, disk, "run")
    differences(out, finished)


@pytest.mark.parametrize("pages", range(-3, 5))
def test_room_for_the_model_and_hardly_for_the_report(pages, images, finished, disk):
    """All is written but the last page or two."""
    model = sum(
        -(-path.stat().st_size // PAGE) * PAGE for path in (finished / "sparse").rglob("*.bin")
    )
    _, out = spoil("model", model + pages * PAGE, images, finished, disk, "run")
    differences(out, finished)
