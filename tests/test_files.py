"""Files and folders appear whole or not at all, and errors say what to do."""

import errno
import json

import pytest

from rekd_hloc.files import (
    atomic_write,
    beside,
    explain_os_error,
    replace_folder,
    write_bytes,
    write_json,
    write_text,
)


def entries(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_appears_whole(tmp_path, durable):
    path = tmp_path / "made" / "a.bin"
    with atomic_write(path, durable=durable) as scratch:
        scratch.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert entries(path.parent) == ["a.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_writer_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail():
        with atomic_write(path) as scratch:
            scratch.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text(encoding="utf-8") == "old"
    assert entries(tmp_path) == ["a.txt"]


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "a.txt", tmp_path / "a.txt"
    real.write_text("old")
    link.symlink_to(real)
    write_text(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert beside(link, ".journal") == real.with_name("a.txt.journal").resolve()


def test_errors_name_the_file_and_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write .*a.json: .*; choose another output"):
        write_json(tmp_path / "file" / "a.json", {})
    kept = tmp_path / "a.journal"
    with pytest.raises(OSError, match="make it writable; all .* is in .*a.journal: the same"):
        write_bytes(tmp_path / "file" / "a.bin", b"", kept_in=kept)
    full = explain_os_error(OSError(errno.EDQUOT, "Quota"), tmp_path / "a")
    assert full.errno == errno.EDQUOT
    assert "no space left for" in str(full)
    assert "free some space" in str(full)


def test_text_is_utf8_with_line_feeds(tmp_path):
    write_text(tmp_path / "a.txt", "ü\n")
    assert (tmp_path / "a.txt").read_bytes() == "ü\n".encode()


def test_json_is_strict_and_whole(tmp_path):
    path = tmp_path / "report.json"
    write_json(path, {"a": float("nan"), "b": [1, (2, float("inf"))], "ü": {"c": None}})
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "a": None,
        "b": [1, [2, None]],
        "ü": {"c": None},
    }
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text(encoding="utf-8"))["a"] is None
    assert entries(tmp_path) == ["report.json"]


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_is_replaced_by_a_finished_one(tmp_path, exists):
    out, scratch = tmp_path / "model", tmp_path / "model.tmp"
    if exists:
        out.mkdir()
        (out / "old").touch()
    scratch.mkdir()
    (scratch / "new").touch()
    replace_folder(out, scratch)
    assert entries(out) == ["new"]
    assert entries(tmp_path) == ["model"]


def test_the_old_folder_stays_where_there_is_no_new_one(tmp_path):
    out = tmp_path / "model"
    out.mkdir()
    (out / "old").touch()
    with pytest.raises(FileNotFoundError):
        replace_folder(out, tmp_path / "missing")
    assert entries(out) == ["old"]
    assert entries(tmp_path) == ["model"]
