"""Ctrl-C, SIGTERM and closed pipes, sent to real processes: one line, a status, no traceback."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from rekd_hloc.cli import main as program
from rekd_hloc.cli.failures import describe_failure
from rekd_hloc.cli.interrupts import how_to_go_on
from tests.corner_scene import make_photos
from tests.helpers import ROOT

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
LINE = "rekd-hloc: interrupted; the same command goes on from here\n"
PYTHON = "while True: time.sleep(0.01)"
LIBRARY = "hashlib.pbkdf2_hmac('sha256', b'', b'', 2 * 10**9)"
"""For many minutes, in which Python runs no handler in this thread."""
COLMAP = (
    "from rekd_hloc.sfm.pycolmap_compat import pycolmap; print('loaded', flush=True); " + PYTHON
)
IMPORT = "import module_that_loads_for_long"
SLOW_TO_CLEAN_UP = """
    try:
        print("steady", flush=True)
        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        time.sleep(60)
"""
THREADS = "list(ThreadPoolExecutor(2).map(time.sleep, [0.5, 0.5, 0.5]))"


def start(work, tmp_path, *, patience_s=60.0, before="signal.SIG_DFL"):
    """A process that does some work interruptibly and says when it begins."""
    (tmp_path / "module_that_loads_for_long.py").write_text("import time; time.sleep(60)")
    script = f"""
import hashlib, signal, sys, time
signal.signal(signal.SIGINT, {before})
signal.signal(signal.SIGINT, signal.default_int_handler) if {before == "signal.SIG_DFL"} else None
sys.path.append({str(tmp_path)!r})
from concurrent.futures import ThreadPoolExecutor
from rekd_hloc.cli import interrupts
interrupts.PATIENCE_S = {patience_s}
def work():
    print("ready", flush=True)
    {work}
    print("done", flush=True)
    return 0
sys.exit(interrupts.run_interruptibly(work, "the same command goes on from here"))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=ROOT,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


def end(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize(("kind", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("work", [PYTHON, IMPORT, THREADS], ids=["Python", "import", "threads"])
def test_a_signal_ends_it_with_one_line(work, kind, status, tmp_path):
    process = start(work, tmp_path)
    process.send_signal(kind)
    assert end(process) == (status, "", LINE)


@pytest.mark.parametrize(("kind", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_colmap_takes_no_signal_over(kind, status, tmp_path):
    process = start(COLMAP.replace("; while", "\n    while"), tmp_path)
    assert process.stdout.readline() == "loaded\n"
    process.send_signal(kind)
    assert end(process) == (status, "", LINE)


def test_a_library_that_computes_for_long_is_ended_from_outside(tmp_path):
    process = start(LIBRARY, tmp_path, patience_s=0.2)
    process.send_signal(signal.SIGTERM)
    assert end(process) == (143, "", LINE)


def test_a_second_signal_ends_a_library_at_once(tmp_path):
    process = start(LIBRARY, tmp_path)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, "", LINE)


def test_a_second_signal_ends_a_slow_clean_up_at_once(tmp_path):
    process = start(SLOW_TO_CLEAN_UP, tmp_path)
    assert process.stdout.readline() == "steady\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "cleaning\n"
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == -signal.SIGTERM


def test_ignored_signals_stay_ignored(tmp_path):
    """As under nohup, or in the background of a script."""
    process = start("time.sleep(0.5)", tmp_path, before="signal.SIG_IGN")
    process.send_signal(signal.SIGINT)
    assert end(process) == (0, "done\n", "")


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_every_command_ends_so(kind, tmp_path, monkeypatch, capsys, request):
    from rekd_hloc.matching import pairs

    def write(*_arguments, **_options):
        os.kill(os.getpid(), kind)
        time.sleep(10)

    inherited = signal.signal(kind, signal.default_int_handler)  # ignored behind a shell's &
    request.addfinalizer(lambda: signal.signal(kind, inherited))
    before = signal.getsignal(kind)
    monkeypatch.setattr(pairs, "write_pairs", write)
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(b"x")
    assert program.main(["pairs", str(tmp_path), str(tmp_path / "p.txt")]) == 128 + kind
    line = "rekd-hloc: interrupted; no file is left half-written; run it again\n"
    assert capsys.readouterr().err == line
    assert signal.getsignal(kind) is before


def test_the_line_says_how_to_go_on():
    assert how_to_go_on(["match", "f.h5", "m.h5", "--overwrite"]).startswith("the same command wit")
    assert how_to_go_on(["reconstruct", "a", "b", "--overwrite"]).startswith("the same command goe")
    assert "half-written" in how_to_go_on(["plot"])
    assert how_to_go_on([])
    for before in (["-v"], ["--log-file", "plot"], ["--log-file=plot", "-v"]):
        assert how_to_go_on([*before, "extract", "a", "b"]) == how_to_go_on(["extract", "a", "b"])


def command(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "rekd_hloc", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def test_a_closed_pipe_is_no_error():
    process = command("--help")
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 1


@pytest.mark.slow
def test_an_interrupted_reconstruction_goes_on(tmp_path):
    make_photos(tmp_path, 4)
    arguments = ("reconstruct", tmp_path / "images", tmp_path / "out", "--conf", "rekd-fast")
    for stage in ("features.h5.journal", "features.h5", "database.db"):
        if (tmp_path / "out" / stage).exists():
            continue  # the signal would meet a process that has not begun
        process = command(*arguments, "--quiet")
        while not (tmp_path / "out" / stage).exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        status, _, error = end(process)
        if status:  # else it was done before the signal came
            assert status == 130
            assert error.endswith(LINE)  # a warning may stand above it
            assert "Traceback" not in error
    assert end(command(*arguments, "--quiet"))[0] == 0


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("ratio must be"), "ratio must be"),
        (FileNotFoundError("no folder x"), "no folder x"),
        (OSError(), "OSError"),
        (MemoryError(), "not enough memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "not enough"),
        (RuntimeError("CUDA error: device-side assert\nmore"), "CUDA error: device-side assert;"),
        (RuntimeError("SQLite error: disk I/O error"), "disk I/O error"),
    ],
)
def test_what_is_no_bug_is_one_line(error, words):
    line = describe_failure(error)
    assert words in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "error", [TypeError("x"), KeyError("x"), RuntimeError("shape"), RecursionError("cuda")]
)
def test_a_bug_keeps_its_traceback(error):
    assert describe_failure(error) is None


def test_a_traceback_of_any_error_is_shown_on_request(tmp_path, monkeypatch, capsys):
    wrong = ["pairs", str(tmp_path / "nothing"), str(tmp_path / "p.txt")]
    assert program.main(wrong) == 2
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("REKD_HLOC_TRACEBACK", "1")
    assert program.main(wrong) == 2
    assert "Traceback" in capsys.readouterr().err
