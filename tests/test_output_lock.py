"""Two runs on one output: the second one is refused at once, and destroys nothing of the first."""

import multiprocessing
import os
import signal
import sys
import time

import h5py
import pytest

from rekd_hloc import locks
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.sfm import database, stages
from rekd_hloc.sfm import reconstruct as reconstruction
from rekd_hloc.sfm.database import export_database
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.sfm.reconstruct import reconstruct
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.storage.journal import Journal
from rekd_hloc.viz.page import write_html_report
from tests.corner_scene import make_photos
from tests.helpers import random_features
from tests.sift_extractor import SiftExtractor
from tests.store_helpers import (
    MADE_WITH,
    files,
    no_fsync,  # noqa: F401
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no flock")
BUSY = "is being written by another process"
OTHER = {"weights": "other"}


def another_process(function, *args):
    """Call a function in a process of its own; the text of its error, or None."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(_text_of_error, (function, args))


def _text_of_error(function, args):
    try:
        function(*args)
    except (ValueError, OSError) as error:
        return str(error)
    return None


def overwrite_store(path):
    with FeatureStore.resume(path, OTHER, overwrite=True) as store:
        store.write("other.jpg", random_features(2))


def hold(folder):
    with locks.hold_folder(folder):
        pass


def test_overwriting_waits_for_the_lock_before_it_deletes_anything(tmp_path):
    path = tmp_path / "f.h5"
    with FeatureStore.resume(path, MADE_WITH) as store:
        store.write("a.jpg", random_features(3))
    with FeatureStore.resume(path, MADE_WITH) as store:
        store.write("b.jpg", random_features(3))
        before = path.read_bytes(), path.with_name("f.h5.journal").read_bytes()
        assert BUSY in another_process(overwrite_store, path)
        assert (path.read_bytes(), path.with_name("f.h5.journal").read_bytes()) == before
    with FeatureStore(path) as store:
        assert store.names() == ["a.jpg", "b.jpg"]
        assert store.provenance == MADE_WITH
    assert another_process(overwrite_store, path) is None
    with FeatureStore(path) as store:
        assert store.names() == ["other.jpg"]
        assert store.provenance == OTHER


def test_the_lock_is_kept_until_the_file_is_complete(tmp_path, monkeypatch):
    path = tmp_path / "f.h5"
    store = FeatureStore.resume(path, MADE_WITH)
    store.write("a.jpg", random_features(3))
    said = []
    for step in ("_merge", "remove"):
        owner = type(store._file) if step == "_merge" else Journal
        real = getattr(owner, step)

        def try_to_overwrite(*args, real=real):
            said.append(another_process(overwrite_store, path))
            return real(*args)

        monkeypatch.setattr(owner, step, try_to_overwrite)
    store.close()
    assert len(said) == 2
    assert all(BUSY in text for text in said)
    with FeatureStore(path) as store:
        assert store.names() == ["a.jpg"]


def test_a_lock_on_a_file_that_was_deleted_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    path = tmp_path / "f"
    real, calls = locks._lock, []

    def lock(file, about, *, shared):
        real(file, about, shared=shared)
        calls.append(about)
        if len(calls) == 1:
            path.unlink()  # the other process finished just now

    monkeypatch.setattr(locks, "_lock", lock)
    with locks.lock_file(path) as file:
        assert locks.is_named(path, file)
    assert len(calls) == 2


@pytest.mark.parametrize("change", ["deleted", "replaced"])
def test_a_journal_that_is_not_ours_any_more_is_neither_used_nor_deleted(change, tmp_path):
    """Where no lock holds others off, or a user deletes what looks left over."""
    path, journal = tmp_path / "f.h5", tmp_path / "f.h5.journal"
    store = FeatureStore.resume(path, MADE_WITH)
    store.write("a.jpg", random_features(3))
    journal.unlink()
    if change == "replaced":
        journal.write_bytes(b"of another process")
    assert len(store.read("a.jpg")) == 3
    with pytest.raises(OSError, match=r"f\.h5\.journal was deleted or replaced by another"):
        store.close()
    assert files(tmp_path) == (["f.h5.journal"] if change == "replaced" else [])
    if change == "replaced":
        assert journal.read_bytes() == b"of another process"


@pytest.mark.parametrize("change", ["other settings", "appeared", "deleted"])
def test_a_file_that_another_program_put_there_meanwhile_is_not_added_to(change, tmp_path):
    path = tmp_path / "f.h5"
    if change != "appeared":
        with FeatureStore.resume(path, MADE_WITH) as store:
            store.write("a.jpg", random_features(3))
    store = FeatureStore.resume(path, MADE_WITH)
    store.write("b.jpg", random_features(3))
    if change != "appeared":
        path.unlink()
    if change != "deleted":
        with h5py.File(path, "w") as file:
            file.attrs["weights"] = "other"
    with pytest.raises((ValueError, OSError), match=r"f\.h5 was made"):
        store.close()
    assert (tmp_path / "f.h5.journal").exists()
    if change != "deleted":
        with h5py.File(path) as file:
            assert list(file) == []
        path.unlink()
    with FeatureStore.resume(path, MADE_WITH) as store:
        assert "b.jpg" in store


def test_records_of_other_settings_are_not_read_as_the_files(tmp_path, caplog):
    """What a run that replaces the file leaves when it is killed."""
    path = tmp_path / "f.h5"
    with FeatureStore.resume(path, MADE_WITH) as store:
        store.write("a.jpg", random_features(3))
    old = path.read_bytes()
    store = FeatureStore.resume(path, OTHER, overwrite=True)
    store.write("a.jpg", random_features(5))
    store._file.release()
    path.write_bytes(old)
    with FeatureStore(path) as store:
        assert store.provenance == MADE_WITH
        assert len(store.read("a.jpg")) == 3
    assert "is being made anew" in caplog.text


def test_a_record_of_another_group_is_noticed(tmp_path):
    store = FeatureStore.resume(tmp_path / "f.h5", MADE_WITH)
    for name in ("a.jpg", "b.jpg"):
        store.write(name, random_features(3))
    journal = store._file._journal
    journal._entries["a.jpg"] = journal._entries["b.jpg"]
    with pytest.raises(ValueError, match=r"journal was changed by another program"):
        store.read("a.jpg")
    store._file.release()


def test_a_folder_is_held_by_one_process(tmp_path):
    out = tmp_path / "new" / "out"
    with locks.hold_folder(out), locks.hold_folder(out):
        assert another_process(hold, out) == f"{out} {BUSY}"
    assert another_process(hold, out) is None
    with FeatureStore.resume(out / "f.h5", MADE_WITH):
        assert BUSY in another_process(hold, out)
        assert another_process(overwrite_store, out / "g.h5") is None


def test_no_file_is_written_into_a_folder_that_a_run_holds(tmp_path):
    with locks.hold_folder(tmp_path):
        assert another_process(overwrite_store, tmp_path / "f.h5") == f"{tmp_path} {BUSY}"
        assert another_process(overwrite_store, tmp_path / "sub" / "f.h5") is None
        with FeatureStore.resume(tmp_path / "g.h5", MADE_WITH):  # the run's own
            pass
    assert another_process(overwrite_store, tmp_path / "f.h5") is None


def die_and_leave_a_worker(folder, pipe):
    with locks.hold_folder(folder), FeatureStore.resume(folder / "f.h5", MADE_WITH):
        worker = os.fork()
        if worker == 0:
            time.sleep(30)
            os._exit(0)
        os.write(pipe, f"{worker}\n".encode())
        os._exit(0)


def test_a_worker_that_outlives_its_run_holds_no_lock(tmp_path):
    reading, writing = os.pipe()
    process = multiprocessing.get_context("fork").Process(
        target=die_and_leave_a_worker, args=(tmp_path, writing)
    )
    process.start()
    process.join()
    worker = int(os.read(reading, 20))
    try:
        hold(tmp_path)
        overwrite_store(tmp_path / "f.h5")
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(reading)
        os.close(writing)


def test_a_file_system_without_locks_is_written_all_the_same(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    with locks.hold_folder(tmp_path):
        overwrite_store(tmp_path / "f.h5")
    assert files(tmp_path) == [".rekd_hloc", "f.h5"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    make_photos(folder, 4)
    return folder / "images"


def run(images, out, **options):
    return reconstruct(images, out, extractor=SiftExtractor(250), device="cpu", **options)


def export(out):
    with FeatureStore(out / "features.h5") as features:
        export_database(out / "database.db", None, features, None, [], overwrite=True)


def match(out):
    pairs = [("view 00.png", "view 01.png")]
    match_images(out / "features.h5", out / "matches.h5", pairs, overwrite=True)


def extract(images, out):
    extract_images(SiftExtractor(50, keypoints="50"), images, out / "features.h5", overwrite=True)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["extract_images", "map_scene"])
def test_whatever_a_run_is_at_no_other_writes_its_folder(stage, images, tmp_path, monkeypatch):
    out, said = tmp_path / "out", []
    place = reconstruction if hasattr(reconstruction, stage) else stages
    real = getattr(place, stage)

    def with_others(*args, **options):
        if not said:
            said.append(another_process(run, images, out))
            said.append(another_process(extract, images, out))
            if (out / "features.h5").exists():
                said.append(another_process(export, out))
                said.append(another_process(match, out))
            (out / "report.json").write_text("{}")
            said.append(another_process(write_page, images, out))
            (out / "report.json").unlink()
        return real(*args, **options)

    monkeypatch.setattr(place, stage, with_others)
    assert run(images, out)["num_registered"] == 4
    assert said == [f"{out} {BUSY}"] * (3 if stage == "extract_images" else 5)


def write_page(images, out):
    write_html_report(out, images, title="of another")


def test_two_exports_of_one_database_do_not_share_their_scratch(images, tmp_path, monkeypatch):
    run(images, tmp_path)
    said = []
    replace = database.replace_database

    def with_another(path, scratch):
        said.append(another_process(export, tmp_path))
        replace(path, scratch)

    monkeypatch.setattr(database, "replace_database", with_another)
    export(tmp_path)
    assert said == [f"{tmp_path / 'database.db'} {BUSY}"]
