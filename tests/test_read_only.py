"""Finished files on a place that cannot be written: nothing to do is no error."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest

from rekd_hloc.images import write_image
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.sfm import reconstruct as reconstruction
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.storage.features import FeatureStore
from tests.sift_extractor import SiftExtractor
from tests.store_helpers import (
    MADE_WITH,
    files,
    interrupted,
    no_fsync,  # noqa: F401
)

PAIRS = [("a.png", "b.png")]


@pytest.fixture
def scene(tmp_path):
    """Images, and features and matches of them, in a folder of their own."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        picture = rng.integers(0, 255, (60, 80, 3)).astype(np.uint8)
        write_image(tmp_path / "images" / name, picture)
    run(tmp_path)
    return tmp_path


def run(folder, pairs=PAIRS, size="large"):
    extractor = SiftExtractor(50, size=size)
    features, matches = folder / "out" / "f.h5", folder / "out" / "m.h5"
    summary = extract_images(extractor, folder / "images", features)
    return summary, match_images(features, matches, pairs)


def forbid(monkeypatch, *places):
    """Let the system say that these cannot be written; root could write them all the same."""
    access = os.access

    def may(path, mode):
        return access(path, mode) and not (mode & os.W_OK and os.fspath(path) in names)

    names = [str(place.resolve()) for place in places]
    monkeypatch.setattr(os, "access", may)


@pytest.mark.parametrize("places", [["out"], ["out/f.h5", "out/m.h5"], ["out/f.h5", "out"]])
def test_nothing_to_do_is_done_where_nothing_can_be_written(places, scene, monkeypatch):
    before = {name: (scene / "out" / name).read_bytes() for name in files(scene / "out")}
    forbid(monkeypatch, *(scene / place for place in places))
    extracted, matched = run(scene)
    assert extracted.num_resumed == 2
    assert matched.num_resumed == 1
    assert {name: (scene / "out" / name).read_bytes() for name in files(scene / "out")} == before


def test_something_to_do_is_refused_before_it_is_begun(scene, monkeypatch):
    forbid(monkeypatch, scene / "out")
    with pytest.raises(ValueError, match=r"f\.h5 was made with other settings"):
        run(scene, size="small")
    with FeatureStore.resume(scene / "out" / "f.h5", made(scene)) as store:
        features = store.read("a.png")
        with pytest.raises(OSError, match=r"cannot write .*f\.h5: Permission denied; choose anoth"):
            store.write("c.png", features)
    (scene / "images" / "c.png").write_bytes((scene / "images" / "a.png").read_bytes())
    extractor = SiftExtractor(50, size="large")
    with pytest.raises(OSError, match=r"cannot write .*f\.h5: Permission denied; choose another"):
        extract_images(extractor, scene / "images", scene / "out" / "f.h5")
    assert extractor.seen == []
    assert files(scene / "out") == ["f.h5", "m.h5"]


def made(scene):
    with FeatureStore(scene / "out" / "f.h5") as store:
        return store.provenance


def test_a_journal_that_cannot_be_merged_counts_as_done(tmp_path, monkeypatch):
    with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH):
        pass
    interrupted(tmp_path / "f.h5")
    forbid(monkeypatch, tmp_path)
    with FeatureStore.resume(tmp_path / "f.h5", MADE_WITH) as store:
        assert store.names() == ["killed.jpg"]
    assert files(tmp_path) == ["f.h5", "f.h5.journal"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root mounts")
def test_a_file_system_that_is_read_only(scene):
    out = str(scene / "out")
    for options in (["--bind", out, out], ["-o", "remount,ro,bind", out]):
        done = subprocess.run(["mount", *options], capture_output=True, text=True)
        if done.returncode:
            subprocess.run(["umount", "--lazy", out], capture_output=True)
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        extracted, matched = run(scene)
        assert (extracted.num_resumed, matched.num_resumed) == (2, 1)
        with pytest.raises(OSError, match=r"cannot write .*m\.h5"):
            match_images(scene / "out" / "f.h5", scene / "out" / "new" / "m.h5", PAIRS)
    finally:
        subprocess.run(["umount", "--lazy", out], check=True)


@pytest.fixture
def archived(finished, tmp_path, monkeypatch):
    """A finished reconstruction elsewhere, as a backup keeps it, which cannot be written."""
    folder = tmp_path / "archive"
    shutil.copytree(finished[0], folder)
    forbid(monkeypatch, folder, *folder.rglob("*"))

    def refuse(*arguments, **options):
        raise OSError("cannot write")  # root could

    monkeypatch.setattr(reconstruction.Run, "start", refuse)
    return folder


def run_again(photos, folder, **options):
    return reconstruction.reconstruct(
        options.pop("images", photos / "images"), folder,
        extractor=SiftExtractor(400), device="cpu", **options,
    )  # fmt: skip


def test_a_finished_reconstruction_that_cannot_be_written_is_read(photos, archived):
    before = {path: path.read_bytes() for path in archived.rglob("*") if path.is_file()}
    report = run_again(photos, archived)
    assert report == json.loads((archived / "report.json").read_text())
    assert {path: path.read_bytes() for path in archived.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("change", ["seed", "photo", "removed", "model", "features", "overwrite"])
def test_one_with_something_to_do_cannot_be_written(change, photos, archived, tmp_path):
    options = {"seed": {"seed": 7}, "overwrite": {"overwrite": True}}.get(change, {})
    images = tmp_path / "images"
    shutil.copytree(photos / "images", images)
    names = sorted(path.name for path in images.iterdir())
    if change == "photo":
        shutil.copy(images / names[1], images / names[0])
    elif change == "removed":
        (images / names[0]).unlink()
    elif change == "model":
        (archived / "sparse" / "0" / "points3D.bin").write_bytes(b"")
    elif change == "features":
        os.utime(archived / "features-refined.h5", (1, 1))
    with pytest.raises(OSError, match="cannot write"):
        run_again(photos, archived, images=images, **options)
