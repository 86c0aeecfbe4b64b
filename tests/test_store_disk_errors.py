"""Full disks, files that cannot be written, and errors while closing."""

import errno
import itertools
import os

import pytest

from rekd_hloc import files as files_module
from rekd_hloc.storage import hdf5, journal
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Matches
from tests.helpers import random_features
from tests.store_helpers import (
    MADE_WITH,
    files,
    no_fsync,  # noqa: F401
)


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def assert_goes_on(path, names):
    with FeatureStore.resume(path, MADE_WITH) as store:
        assert store.names() == names
    with FeatureStore(path) as store:
        assert [len(store.read(name)) for name in names] == [5] * len(names)
    assert files(path.parent) == [path.name]


def test_a_full_disk_while_writing(tmp_path, monkeypatch):
    class FullAfter:
        """A file on a disk that has room for so many bytes more."""

        def __init__(self, file, room):
            self.file, self.room = file, room

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            if self.room == 0:
                full()
            written = self.file.write(data[: self.room])
            self.room -= written
            return written

    path = tmp_path / "f.h5"
    store = FeatureStore.resume(path, MADE_WITH)
    store.write("a.jpg", random_features(5))
    inner = store._file._journal
    inner._file = FullAfter(inner._file, room=999)
    with pytest.raises(
        OSError, match=r"no space left for .*f\.h5\.journal; free some.* goes on"
    ) as caught:
        store.write("b.jpg", random_features(5))
    assert caught.value.errno == errno.ENOSPC
    assert store.names() == ["a.jpg"]
    store._file.release()
    assert files(tmp_path) == ["f.h5.journal"]
    assert_goes_on(path, ["a.jpg"])


@pytest.mark.parametrize("step", ["_reserve", "write_group", "sync"])
@pytest.mark.parametrize("is_new", [True, False])
def test_a_full_disk_while_closing(step, is_new, tmp_path, monkeypatch):
    path = tmp_path / "f.h5"
    names = ["b.jpg"] if is_new else ["a.jpg", "b.jpg"]
    for name in names[:-1]:
        with FeatureStore.resume(path, MADE_WITH) as store:
            store.write(name, random_features(5))
    store = FeatureStore.resume(path, MADE_WITH)
    store.write("b.jpg", random_features(5))
    with monkeypatch.context() as patch:
        patch.setattr(files_module if step == "sync" else hdf5, step, full)
        with pytest.raises(
            OSError, match=r"no space left for .*f\.h5; free some space; all that .* is in"
        ):
            store.close()
    assert files(tmp_path) == ["f.h5"] * (not is_new) + ["f.h5.journal"]
    assert_goes_on(path, names)


def test_space_is_reserved_before_hdf5_can_run_out_of_it(tmp_path, monkeypatch):
    """A full disk inside HDF5 ends the process, so what is reserved must always be enough."""
    sizes = []
    real = hdf5._reserve

    def reserve(path, num_bytes):
        real(path, num_bytes)
        sizes.append(path.stat().st_size)

    monkeypatch.setattr(hdf5, "_reserve", reserve)
    with MatchStore.resume(tmp_path / "m.h5", MADE_WITH) as store:
        for a, b in itertools.combinations(range(25), 2):
            store.write(f"{a}/{'long ' * 20}.jpg", f"{b}.jpg", Matches.empty(), 1)
    with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
        for i in range(20):
            store.write(f"{i}.jpg", random_features(2 * i))
    assert sizes[0] >= (tmp_path / "m.h5").stat().st_size
    assert sizes[1] >= (tmp_path / "f.h5").stat().st_size


def test_no_room_to_reserve(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "FILE_BYTES", 1 << 60)
    store = FeatureStore.resume(tmp_path / "f.h5", MADE_WITH)
    store.write("a.jpg", random_features(5))
    with pytest.raises(OSError, match="no space left"):
        store.close()
    monkeypatch.undo()
    assert_goes_on(tmp_path / "f.h5", ["a.jpg"])


def test_a_file_system_that_cannot_reserve_is_asked_how_much_is_free(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    (tmp_path / "a").touch()
    hdf5._reserve(tmp_path / "a", 5)
    assert (tmp_path / "a").stat().st_size in (0, 5)
    monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    hdf5._reserve(tmp_path / "a", 1)
    with pytest.raises(OSError, match="No space left"):
        hdf5._reserve(tmp_path / "a", 1 << 60)


def test_the_error_of_the_block_comes_first(tmp_path, monkeypatch, caplog):
    store = FeatureStore.resume(tmp_path / "f.h5", MADE_WITH)
    monkeypatch.setattr(hdf5, "_reserve", full)
    store.write("a.jpg", random_features(5))
    with pytest.raises(RuntimeError, match="first"), store:
        raise RuntimeError("first")
    assert "no space left" in caplog.text


@pytest.mark.parametrize("is_file_there", [True, False])
def test_a_folder_that_cannot_be_written(is_file_there, tmp_path, monkeypatch):
    if is_file_there:
        with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
            store.write("a.jpg", random_features(5))
    before = files(tmp_path)
    real = journal.Path.open

    def read_only(path, mode="r", *args, **options):
        if set(mode) & set("aw+"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, mode, *args, **options)

    monkeypatch.setattr(journal.Path, "open", read_only)
    message = r"cannot write .*f\.h5\.journal: Permission denied; choose another output"
    with pytest.raises(PermissionError, match=message):
        FeatureStore.resume(tmp_path / "f.h5", MADE_WITH)
    assert files(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_read_only_folder_and_a_read_only_file(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with FeatureStore.resume(folder / "f.h5", MADE_WITH) as store:
        store.write("a.jpg", random_features(5))
    (folder / "f.h5").chmod(0o444)
    with (
        FeatureStore.resume(folder / "f.h5", MADE_WITH) as store,
        pytest.raises(PermissionError, match="choose another output"),
    ):
        store.write("b.jpg", random_features(5))
    folder.chmod(0o555)
    with pytest.raises(PermissionError, match="choose another output"):
        FeatureStore.resume(folder / "g.h5", MADE_WITH)
    folder.chmod(0o755)


def test_an_output_in_a_file_instead_of_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write .*f\.h5: .*; choose another output"):
        FeatureStore.resume(tmp_path / "file" / "f.h5", MADE_WITH)


def test_a_damaged_file_that_cannot_be_added_to_keeps_the_journal(tmp_path, monkeypatch):
    path = tmp_path / "f.h5"
    with FeatureStore.resume(path, MADE_WITH) as store:
        store.write("a.jpg", random_features(5))
    store = FeatureStore.resume(path, MADE_WITH)
    store.write("b.jpg", random_features(5))

    def damaged(*_):
        raise RuntimeError("incorrect metadata checksum")

    with monkeypatch.context() as patch:
        patch.setattr(hdf5, "write_group", damaged)
        with pytest.raises(ValueError, match=r"f\.h5 is damaged .*checksum.*; move it away"):
            store.close()
    path.unlink()
    assert_goes_on(path, ["b.jpg"])
